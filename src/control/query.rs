//! Parameters in the query of a request. A parameter that the route does not take is refused.

use super::ApiError;
use crate::api::MAX_CHECKED;

/// A parameter that a route takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    /// Stands for a value in messages and in the reference.
    pub(super) value: &'static str,
    pub(super) times: Times,
    #[cfg(test)]
    pub(super) doc: &'static str,
}

/// How often a request may have a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Times {
    /// Once or not at all.
    Optional,
    /// Once.
    Required,
    /// Any number of times, or not at all.
    Any,
    /// Once, or several times up to this number.
    UpTo(usize),
}

impl Times {
    fn most(self) -> usize {
        match self {
            Self::Optional | Self::Required => 1,
            Self::Any => usize::MAX,
            Self::UpTo(most) => most,
        }
    }

    fn is_required(self) -> bool {
        matches!(self, Self::Required | Self::UpTo(_))
    }
}

macro_rules! parameters {
    ($($(#[doc = $doc:literal])+ $id:ident: $name:literal = $value:literal, $times:ident $(($most:expr))?;)+) => {$(
        $(#[doc = $doc])+
        pub(super) const $id: Parameter = Parameter {
            name: $name,
            value: $value,
            times: Times::$times $(($most))?,
            #[cfg(test)]
            doc: concat!($($doc, "\n"),+),
        };
    )+};
}

parameters! {
    /// Select packages, like `dev-lang/rust` or `>=app-misc/hello-2`.
    ATOM: "atom" = "ATOM", Any;
    /// Select pins: an atom, or the path of the pinned package.
    NAME: "atom" = "ATOM", Any;
    /// Select entries by the path at which they are shown.
    PATH: "path" = "PATH", UpTo(MAX_CHECKED);
    /// Select packages that are held back by their paths.
    HELD: "path" = "PATH", UpTo(MAX_CHECKED);
    /// `true` adds hidden entries.
    HIDDEN: "hidden" = "BOOLEAN", Optional;
    /// `true` accepts an index that is older than the one in use.
    ACCEPT_OLDER: "accept_older" = "BOOLEAN", Optional;
    /// The generation: its number, `latest` for the newest one and every one after it, `tree` for
    /// the one whose commit is nearest to that of the ebuild repository, or `previous`, which is
    /// the default.
    TO: "to" = "GENERATION", Optional;
    /// Number of the generation.
    GENERATION: "generation" = "NUMBER", Required;
    /// `false` removes the mark. The default is `true`.
    KEEP: "keep" = "BOOLEAN", Optional;
    /// Select the packages to which installed packages would be upgraded.
    WORLD: "world" = "true", Optional;
    /// Select the packages that an emerge has planned.
    PLAN: "plan" = "true", Optional;
    /// Number of the job.
    JOB: "job" = "NUMBER", Required;
    /// Leave out so many of the finished packages: the client knows them already.
    SINCE: "since" = "NUMBER", Optional;
}

/// The parameters of a request. Their names are known, and none is repeated too often.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// `text`: the part of the URI after the `?`. `known`: what the route takes.
    ///
    /// # Errors
    /// The route does not take a parameter, or not so many times, or one that it needs is missing.
    pub(super) fn parse(text: &str, known: &[Parameter]) -> Result<Self, ApiError> {
        let pairs: Vec<(String, String)> = url::form_urlencoded::parse(text.as_bytes()).into_owned().collect();
        for (name, _) in &pairs {
            let Some(parameter) = known.iter().find(|parameter| parameter.name == name) else {
                return Err(ApiError::bad_request(unknown(name, known)));
            };
            let most = parameter.times.most();
            if pairs.iter().filter(|(other, _)| other == name).count() > most {
                let times = if most == 1 { "once".to_owned() } else { format!("{most} times") };
                return Err(ApiError::bad_request(format!("{name} may be given {times} at most")));
            }
        }
        let required = known.iter().filter(|parameter| parameter.times.is_required());
        match required.into_iter().find(|parameter| pairs.iter().all(|(name, _)| name != parameter.name)) {
            Some(parameter) => Err(missing(&[*parameter])),
            None => Ok(Self(pairs)),
        }
    }

    /// All values of a parameter.
    pub(super) fn all(&self, parameter: Parameter) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(name, _)| name == parameter.name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter that may be missing.
    pub(super) fn optional(&self, parameter: Parameter) -> Option<&str> {
        self.all(parameter).next()
    }

    /// Whether a parameter is `true`. `None`: the parameter is missing.
    pub(super) fn flag(&self, parameter: Parameter) -> Result<Option<bool>, ApiError> {
        let flag = |text: &str| text.parse().map_err(|_| bad_value(parameter, text, "true or false"));
        self.optional(parameter).map(flag).transpose()
    }

    /// A number. `None`: the parameter is missing.
    pub(super) fn optional_number(&self, parameter: Parameter) -> Result<Option<u64>, ApiError> {
        self.optional(parameter).map(|text| number(parameter, text)).transpose()
    }

    /// A number that may not be missing.
    pub(super) fn number(&self, parameter: Parameter) -> Result<u64, ApiError> {
        self.optional_number(parameter)?.ok_or_else(|| missing(&[parameter]))
    }
}

/// Parses the value of a parameter as a number.
pub(super) fn number(parameter: Parameter, text: &str) -> Result<u64, ApiError> {
    text.parse().map_err(|_| bad_value(parameter, text, "a number"))
}

/// The error of a request that needs one of these parameters.
pub(super) fn missing(any: &[Parameter]) -> ApiError {
    let any: Vec<String> = any.iter().map(|Parameter { name, value, .. }| format!("{name}={value}")).collect();
    ApiError::bad_request(format!("{} is missing", any.join(" or ")))
}

fn bad_value(Parameter { name, .. }: Parameter, text: &str, wanted: &str) -> ApiError {
    ApiError::bad_request(format!("{name}={text:?} is not {wanted}"))
}

fn unknown(name: &str, known: &[Parameter]) -> String {
    let known: Vec<&str> = known.iter().map(|parameter| parameter.name).collect();
    let takes =
        if known.is_empty() { "none is taken here".to_owned() } else { format!("there are {}", known.join(", ")) };
    format!("no such parameter: {name}; {takes}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T: std::fmt::Debug>(result: Result<T, ApiError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn only_what_the_route_takes_is_taken() {
        let known = [ATOM, SINCE, PATH];
        let query = Query::parse("atom=a%2Fb&since=7&atom=c&path=", &known).unwrap();
        assert_eq!(query.all(ATOM).collect::<Vec<_>>(), ["a/b", "c"]);
        assert_eq!((query.number(SINCE), query.optional(PATH), query.optional(TO)), (Ok(7), Some(""), None));
        for (text, said) in [
            ("nonsense=1", "no such parameter: nonsense; there are atom, since, path"),
            ("since=1&since=2", "since may be given once at most"),
            (&"path=a&".repeat(33), "path may be given 32 times at most"),
            ("atom=a", "path=PATH is missing"),
        ] {
            assert_eq!(refused(Query::parse(text, &known)), said);
        }
        assert_eq!(refused(Query::parse("a", &[])), "no such parameter: a; none is taken here");
        assert!(Query::parse("", &[]).is_ok() && Query::parse(&"path=a&".repeat(32), &known).is_ok());
    }

    #[test]
    fn values_are_checked() {
        let query = Query::parse("since=-1&keep=yes&job=%00", &[SINCE, KEEP, JOB]).unwrap();
        assert_eq!(refused(query.optional_number(SINCE)), "since=\"-1\" is not a number");
        assert_eq!(refused(query.flag(KEEP)), "keep=\"yes\" is not true or false");
        assert_eq!(refused(query.number(JOB)), "job=\"\\0\" is not a number");
        let query = Query::parse("keep=false", &[KEEP, SINCE]).unwrap();
        assert_eq!((query.flag(KEEP), query.optional_number(SINCE)), (Ok(Some(false)), Ok(None)));
        assert_eq!(refused(query.number(SINCE)), "since=NUMBER is missing");
        assert_eq!(missing(&[ATOM, WORLD]).to_string(), "atom=ATOM or world=true is missing");
    }
}

//! Users and passwords for binhosts, from a file in netrc(5) format. URLs are no place for them:
//! all users may read the files and command lines that have URLs.
//!
//! The parser accepts `machine`, `login` and `password`. systemd passes the file to the service:
//! `LoadCredential=netrc:/etc/binhostfs/netrc`.

use std::path::Path;

/// The name of the file in the credentials directory.
const NAME: &str = "netrc";

/// Credentials per host.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Credentials(Vec<Credential>);

#[derive(Default, PartialEq, Eq)]
struct Credential {
    machine: String,
    user: String,
    password: String,
}

impl Credentials {
    /// Reads the file in `directory`; none where the file does not exist.
    ///
    /// # Errors
    /// The file cannot be read or parsed; the text is for the administrator.
    pub(super) fn load(directory: Option<&Path>) -> Result<Self, String> {
        let Some(path) = directory.map(|directory| directory.join(NAME)) else { return Ok(Self::default()) };
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text).map_err(|error| format!("{}: {error}; nobody is logged in", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(format!("{}: {error}; nobody is logged in", path.display())),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut logins: Vec<Credential> = Vec::new();
        let mut words = text.lines().filter(|line| !line.trim_start().starts_with('#')).flat_map(str::split_whitespace);
        while let Some(key) = words.next() {
            let mut value =
                || words.next().map(str::to_owned).ok_or_else(|| format!("nothing follows the last {key:?}"));
            if key == "machine" {
                logins.push(Credential { machine: value()?.to_ascii_lowercase(), ..Credential::default() });
                continue;
            }
            let login = logins.last_mut().ok_or("it does not begin with \"machine HOST\"")?;
            match key {
                "login" => login.user = value()?,
                "password" => login.password = value()?,
                // The message does not show the word, because it may be a part of a password.
                _ => return Err("only machine, login and password are understood".to_owned()),
            }
        }
        match logins.iter().find(|login| login.user.is_empty()) {
            Some(login) => Err(format!("machine {} has no login", login.machine)),
            None => Ok(Self(logins)),
        }
    }

    /// User and password for a host.
    pub(super) fn of(&self, host: &str) -> Option<(&str, &str)> {
        let login = self.0.iter().find(|login| login.machine.eq_ignore_ascii_case(host))?;
        Some((&login.user, &login.password))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_netrc_says() {
        let text = "# ours\nmachine Host.example login joe password s3cret\n\nmachine b\n  login ann\n";
        let logins = Credentials::parse(text).ok().unwrap();
        assert_eq!(logins.of("host.example"), Some(("joe", "s3cret")));
        assert_eq!((logins.of("b"), logins.of("other")), (Some(("ann", "")), None));
        for (bad, says) in [
            ("login joe", "does not begin"),
            ("machine a login", "nothing follows"),
            ("machine a password x", "has no login"),
            ("machine a login b macdef secret", "only machine"),
        ] {
            let error = Credentials::parse(bad).err().unwrap();
            assert!(error.contains(says) && !error.contains("secret"), "{error}");
        }
        assert!(Credentials::load(None).ok().unwrap() == Credentials::default());
        assert!(Credentials::load(Some(Path::new("/none"))).ok().unwrap() == Credentials::default());
    }
}

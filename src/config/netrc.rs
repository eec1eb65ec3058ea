//! Users and passwords for binhosts, apart from URLs: those stand in files and on command lines that everybody may read.
//!
//! A file as curl and ftp have it (netrc(5)), of which `machine`, `login` and `password` are taken. systemd hands it to the
//! service: `LoadCredential=netrc:/etc/binhostfs/netrc`.

use std::path::Path;

/// Its name in the directory of credentials.
const NAME: &str = "netrc";

/// Who we are, for whom.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Credentials(Vec<Credential>);

#[derive(Default, PartialEq, Eq)]
struct Credential {
    machine: String,
    user: String,
    password: String,
}

impl Credentials {
    /// Those in `directory`; none where it has no such file.
    ///
    /// # Errors
    /// The file cannot be read, or is not understood: what to tell the administrator.
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
                // Not shown: it may be a part of a password.
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

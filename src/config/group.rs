//! The group that may use the control socket.

use std::str::FromStr;
use std::{fmt, fs};

/// The file that has the groups of this system.
const GROUPS: &str = "/etc/group";

/// The group that may use the control socket besides root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SocketGroup {
    /// The name or number that was given.
    name: String,
    pub gid: u32,
}

/// The text is neither a group nor a number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no group {name:?}{reason}; give one of {GROUPS}, or a number")]
pub(crate) struct GroupError {
    name: String,
    reason: String,
}

impl SocketGroup {
    fn find(name: &str, groups: &str) -> Option<Self> {
        let gid = groups.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next()? == name).then(|| fields.nth(1)?.parse().ok()).flatten()
        });
        let gid: u32 = gid.or_else(|| name.parse().ok())?;
        Some(Self { name: name.to_owned(), gid })
    }
}

/// Parses the name of a group in `/etc/group`, or a number.
impl FromStr for SocketGroup {
    type Err = GroupError;

    fn from_str(text: &str) -> Result<Self, GroupError> {
        let (groups, reason) = match fs::read_to_string(GROUPS) {
            Ok(groups) => (groups, String::new()),
            Err(error) => (String::new(), format!(" ({GROUPS}: {error})")),
        };
        Self::find(text, &groups).ok_or_else(|| GroupError { name: text.to_owned(), reason })
    }
}

impl fmt::Display for SocketGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_name_or_by_number() {
        let groups = "root:x:0:\nportage:x:250:portage,me\nbroken\n7:x:70:\n";
        let gid = |name| SocketGroup::find(name, groups).map(|group| group.gid);
        assert_eq!([gid("portage"), gid("root"), gid("250"), gid("7")], [Some(250), Some(0), Some(250), Some(70)]);
        assert_eq!([gid("broken"), gid("nobody"), gid("-1"), gid("")], [None; 4]);
        assert_eq!("root".parse::<SocketGroup>().unwrap().gid, 0);
        let error = "no-such-group".parse::<SocketGroup>().unwrap_err().to_string();
        assert_eq!(error, "there is no group \"no-such-group\"; give one of /etc/group, or a number");
    }
}

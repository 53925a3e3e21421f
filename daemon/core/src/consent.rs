//! Who a person is besides their uid, and the consent that one of them gives to what another wants.

use serde::{Deserialize, Serialize};

/// How somebody came to be on this host, as kernel and logind tell. What is not known is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// Who logged in, whatever they have become since by su or sudo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tty: Option<String>,
    /// The machine that they came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
}

impl Login {
    pub fn is_unknown(&self) -> bool {
        *self == Self::default()
    }
}

/// One person's consent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    pub uid: u32,
    pub user: String,
    #[serde(default, skip_serializing_if = "Login::is_unknown")]
    pub login: Login,
    /// RFC 3339 in UTC.
    pub at: String,
}

/// Whether two are, or may be, one person: by what they are now, or by who logged in.
pub fn same_person(one: (u32, &Login), other: (u32, &Login)) -> bool {
    one.0 == other.0 || (one.1.uid.is_some() && one.1.uid == other.1.uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sudo_makes_nobody_another_person() {
        let by = |uid| Login { uid, ..Login::default() };
        assert!(same_person((7, &by(Some(7))), (0, &by(Some(7)))));
        assert!(same_person((7, &by(None)), (7, &by(Some(7)))));
        assert!(!same_person((7, &by(Some(7))), (8, &by(Some(8)))));
        // Of whom nobody knows who logged in, only the uid tells.
        assert!(!same_person((7, &by(None)), (0, &by(None))));
    }
}

//! What somebody may do: scopes, by the words that APIs commonly use.

use std::fmt;

/// One kind of thing that one may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Look at things, and listen to event streams.
    Read,
    /// Make, change and remove things, and send deliveries again.
    Write,
    /// Publish events.
    Publish,
    /// All that is the operator's alone: keys, the audit log, backups, changes of plugins. Never an owner's.
    Admin,
}

impl Scope {
    /// All scopes.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Publish, Self::Admin];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Publish => "publish",
            Self::Admin => "admin",
        }
    }

    /// The scope of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == word)
    }

    fn bit(self) -> u8 {
        match self {
            Self::Read => 1,
            Self::Write => 2,
            Self::Publish => 4,
            Self::Admin => 8,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u8);

impl Scopes {
    /// Every scope: the operator's.
    pub const OPERATOR: Self = Self(15);
    /// What an owner has: everything but [`Scope::Admin`].
    pub const OWNER: Self = Self(7);

    /// Is that scope among them?
    pub fn has(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// The scopes of a number that [`Scopes::bits`] gave; `None` when it holds others.
    pub fn from_bits(bits: u8) -> Option<Self> {
        (bits <= Self::OPERATOR.0).then_some(Self(bits))
    }

    /// The set as a number.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// Those in the set.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.has(*scope))
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | scope.bit()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_numbers_lead_back_to_the_scopes() {
        for scope in Scope::ALL {
            assert_eq!(Scope::parse(scope.as_str()), Some(scope));
        }
        assert_eq!((Scope::parse("all"), Scope::ALL.into_iter().collect()), (None, Scopes::OPERATOR));
        let owner: Scopes = Scopes::OWNER.iter().collect();
        assert!(owner == Scopes::OWNER && !owner.has(Scope::Admin) && owner.has(Scope::Publish));
        assert_eq!((Scopes::from_bits(owner.bits()), Scopes::from_bits(16)), (Some(owner), None));
    }
}

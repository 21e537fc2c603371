//! Who a request is from, and what that one may do.

use std::sync::Arc;

use crate::domain::{AllowList, Owner, Pattern, Scope, Scopes};

/// Who a request is from. Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal(Arc<Known>);

#[derive(Debug, PartialEq, Eq)]
struct Known {
    kind: Kind,
    name: Box<str>,
    owner: Option<Owner>,
    types: AllowList,
    scopes: Scopes,
}

/// How it is known who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// By the admin key.
    Admin,
    /// Not at all: nothing is configured that one could be known by, and only this machine can ask.
    Anybody,
    /// By a token.
    Token,
    /// By an API key.
    Key,
}

impl Kind {
    /// A word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin_key",
            Self::Anybody => "none",
            Self::Token => "token",
            Self::Key => "api_key",
        }
    }
}

impl Principal {
    /// The holder of the admin key.
    pub fn admin() -> Self {
        Self::operator(Kind::Admin, "admin")
    }

    /// Anybody: nothing is configured that one could be known by, and only this machine can ask.
    pub fn anybody() -> Self {
        Self::operator(Kind::Anybody, "anybody")
    }

    /// The holder of a token: an owner, with the types that it may have to do with.
    pub fn token(owner: Owner, types: AllowList) -> Self {
        let name = format!("owner:{owner}").into();
        Self(Arc::new(Known { kind: Kind::Token, name, owner: Some(owner), types, scopes: Scopes::OWNER }))
    }

    /// The holder of an API key of that id.
    pub fn key(id: &str, owner: Option<Owner>, types: AllowList, scopes: Scopes) -> Self {
        Self(Arc::new(Known { kind: Kind::Key, name: format!("key:{id}").into(), owner, types, scopes }))
    }

    fn operator(kind: Kind, name: &str) -> Self {
        let (types, scopes) = (AllowList::everything(), Scopes::OPERATOR);
        Self(Arc::new(Known { kind, name: name.into(), owner: None, types, scopes }))
    }

    #[cfg(test)]
    pub(super) fn of_owner(owner: &Owner) -> Self {
        Self::token(owner.clone(), AllowList::everything())
    }

    /// How it is known.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// A name that limits are counted by, and that the audit log has: `admin`, `anybody`, `owner:…` or `key:…`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whose things alone it sees and touches; `None` sees everything.
    pub fn owner(&self) -> Option<&Owner> {
        self.0.owner.as_ref()
    }

    /// The event types that it may publish, listen to and subscribe to.
    pub fn types(&self) -> &AllowList {
        &self.0.types
    }

    /// What it may do.
    pub fn scopes(&self) -> Scopes {
        self.0.scopes
    }

    /// May it do things of that kind?
    pub fn may(&self, scope: Scope) -> bool {
        self.0.scopes.has(scope)
    }

    /// May it see what belongs to that owner? `None` is the operator.
    pub fn sees(&self, owner: Option<&Owner>) -> bool {
        self.owner().is_none_or(|own| owner == Some(own))
    }

    /// The first of the patterns that reaches beyond its allow-list.
    pub fn outside<'a>(&self, asked: &'a [Pattern]) -> Option<&'a Pattern> {
        asked.iter().find(|pattern| !self.0.types.contains(pattern))
    }
}

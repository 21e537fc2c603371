//! Who a request is from, and what that one may do.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use axum::extract::FromRequestParts;
use http::request::Parts;
use tokio_util::sync::CancellationToken;

use super::problem::Code;
use super::{Owners, Problem};
use crate::domain::{AllowList, Owner, Pattern, Scope, Scopes, SubscriptionId};

/// Who a request is from. Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal(Arc<Known>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    kind: Kind,
    name: Box<str>,
    owner: Option<Owner>,
    types: AllowList,
    scopes: Scopes,
    validity: Validity,
}

/// How long it is known who asks: what goes on after the answer, such as an event stream, ends with it.
#[derive(Debug, Clone, Default)]
pub struct Validity {
    /// When it ends, in milliseconds since the Unix epoch; without it never.
    pub expires_ms: Option<u64>,
    /// Set when it is taken back.
    pub revoked: Option<CancellationToken>,
    /// The session that it is known by.
    pub session: Option<Arc<InUse>>,
}

/// A session, for those who go on with it after the answer.
#[derive(Debug, Default)]
pub struct InUse {
    /// Set when it is ended.
    pub ended: CancellationToken,
    /// When it was used last, in milliseconds since the Unix epoch.
    pub used_ms: AtomicU64,
}

impl PartialEq for Validity {
    /// What revokes belongs to a key, which the principal's name tells; a session stands for one.
    fn eq(&self, other: &Self) -> bool {
        self.expires_ms == other.expires_ms
    }
}

impl Eq for Validity {}

impl Validity {
    /// Is it still known at that time, in milliseconds since the Unix epoch?
    pub fn holds(&self, now_ms: u64) -> bool {
        let revoked = self.revoked.as_ref().is_some_and(CancellationToken::is_cancelled);
        let ended = self.session.as_ref().is_some_and(|session| session.ended.is_cancelled());
        !revoked && !ended && self.expires_ms.is_none_or(|expires_ms| expires_ms > now_ms)
    }

    /// Can it end?
    pub fn ends(&self) -> bool {
        self.expires_ms.is_some() || self.revoked.is_some() || self.session.is_some()
    }

    /// The same within a session, which ends then at the latest.
    #[must_use]
    pub fn within(self, session: Arc<InUse>, session_expires_ms: u64) -> Self {
        let expires_ms = self.expires_ms.map_or(session_expires_ms, |own_ms| own_ms.min(session_expires_ms));
        Self { expires_ms: Some(expires_ms), session: Some(session), ..self }
    }

    /// Returns when it is taken back, or its session is ended.
    pub async fn taken_back(self) {
        let set = async |token: Option<CancellationToken>| match token {
            Some(token) => token.cancelled_owned().await,
            None => std::future::pending().await,
        };
        let ended = self.session.map(|session| session.ended.clone());
        tokio::select! {
            () = set(self.revoked) => {}
            () = set(ended) => {}
        }
    }
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
    /// By a portal link that it opened.
    Link,
}

impl Kind {
    /// A word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin_key",
            Self::Anybody => "none",
            Self::Token => "token",
            Self::Key => "api_key",
            Self::Link => "portal_link",
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

    /// The holder of a token: an owner, with the types that it may have to do with, and what it may do.
    pub fn token(owner: Owner, types: AllowList, scopes: Scopes) -> Self {
        Self::of(Kind::Token, owner, types, scopes)
    }

    /// Whoever opened a link that was made for that owner.
    pub fn link(owner: Owner, types: AllowList, scopes: Scopes) -> Self {
        Self::of(Kind::Link, owner, types, scopes)
    }

    fn of(kind: Kind, owner: Owner, types: AllowList, scopes: Scopes) -> Self {
        let (name, validity) = (format!("owner:{owner}").into(), Validity::default());
        Self(Arc::new(Known { kind, name, owner: Some(owner), types, scopes, validity }))
    }

    /// The holder of an API key of that id.
    pub fn key(id: &str, owner: Option<Owner>, types: AllowList, scopes: Scopes) -> Self {
        let (name, validity) = (format!("key:{id}").into(), Validity::default());
        Self(Arc::new(Known { kind: Kind::Key, name, owner, types, scopes, validity }))
    }

    /// The same, known for as long as that.
    #[must_use]
    pub fn valid(mut self, validity: Validity) -> Self {
        Arc::make_mut(&mut self.0).validity = validity;
        self
    }

    /// The same, which may have to do with these types only. They are to lie within its allow-list.
    #[must_use]
    pub(super) fn narrowed(mut self, types: Vec<Pattern>) -> Self {
        debug_assert!(self.outside(&types).is_none(), "nobody is given more than he has");
        Arc::make_mut(&mut self.0).types = AllowList::new(types);
        self
    }

    fn operator(kind: Kind, name: &str) -> Self {
        let (types, scopes, validity) = (AllowList::everything(), Scopes::OPERATOR, Validity::default());
        Self(Arc::new(Known { kind, name: name.into(), owner: None, types, scopes, validity }))
    }

    #[cfg(test)]
    pub(super) fn of_owner(owner: &Owner) -> Self {
        Self::token(owner.clone(), AllowList::everything(), Scopes::OWNER)
    }

    /// How it is known.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Is it known who it is?
    pub fn is_known(&self) -> bool {
        self.0.kind != Kind::Anybody
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

    /// How long that is known of it.
    pub fn validity(&self) -> &Validity {
        &self.0.validity
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

/// Who asks, and whose what is: what a handler needs to know of both.
#[derive(Clone)]
pub struct Asker {
    principal: Principal,
    owners: Owners,
    from: Option<IpAddr>,
}

impl Asker {
    /// One who asks.
    pub fn new(principal: Principal, owners: Owners) -> Self {
        Self { principal, owners, from: None }
    }

    /// The same, who asks from that address.
    pub(super) fn asking_from(self, from: Option<IpAddr>) -> Self {
        Self { from, ..self }
    }

    /// The address that it asks from, when it is known.
    pub fn from(&self) -> Option<IpAddr> {
        self.from
    }

    /// Who it is.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// The subscriptions that it sees; `None` when it sees all.
    pub fn own(&self) -> Option<Vec<SubscriptionId>> {
        self.principal.owner().map(|owner| self.owners.all(owner))
    }

    /// The subscriptions of that owner that it sees.
    pub fn own_of(&self, owner: &Owner) -> Vec<SubscriptionId> {
        match self.principal.sees(Some(owner)) {
            true => self.owners.all(owner),
            false => Vec::new(),
        }
    }

    /// May it see that subscription, and what belongs to it?
    pub fn sees(&self, id: &SubscriptionId) -> bool {
        self.owners.lets(&self.principal, id)
    }

    /// # Errors
    /// When one of the patterns reaches beyond its allow-list.
    pub fn within(&self, types: &[Pattern]) -> Result<(), Problem> {
        match self.principal.outside(types) {
            None => Ok(()),
            Some(outside) => Err(outside_of(&self.principal, outside.as_str())),
        }
    }

    /// # Errors
    /// When that event type is not in its allow-list.
    pub fn may_publish(&self, kind: &str) -> Result<(), Problem> {
        match self.principal.types().allows(kind) {
            true => Ok(()),
            false => Err(outside_of(&self.principal, kind)),
        }
    }
}

fn outside_of(principal: &Principal, types: &str) -> Problem {
    let allowed: Vec<&str> = principal.types().patterns().iter().map(Pattern::as_str).collect();
    let allowed = if allowed.is_empty() { "nothing".to_owned() } else { allowed.join(", ") };
    Problem::new(Code::TypesNotAllowed, format!("{types:?} lies outside of what you may have to do with: {allowed}"))
}

impl<S: Send + Sync> FromRequestParts<S> for Asker {
    type Rejection = Problem;

    /// The gate has put it there.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(Problem::internal)
    }
}

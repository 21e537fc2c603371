//! Which events of a subscription wait for each other.

use std::num::NonZeroU32;

use crate::domain::event::Event;

/// Where an event's order key stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// That token of the event type, counted from 1. A type with fewer tokens has the empty key.
    Token(NonZeroU32),
    /// The value of that header, whatever the case of its name. An event without it has the empty key.
    Header(Box<str>),
}

impl KeySource {
    fn of<'a>(&self, event: &'a Event) -> &'a str {
        match self {
            Self::Token(number) => event.kind.split('.').nth(number.get() as usize - 1).unwrap_or_default(),
            Self::Header(name) => event.header(name).unwrap_or_default(),
        }
    }
}

/// Which events of a subscription are delivered in the order of their stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Order {
    /// None: side by side, each as soon as it can.
    #[default]
    None,
    /// Those with the same key; others side by side.
    ByKey(KeySource),
    /// All of them: one at a time.
    Strict,
}

impl Order {
    /// What the event is ordered by; `None` when it waits for nobody.
    pub fn key_of(&self, event: &Event) -> Option<Box<str>> {
        match self {
            Self::None => None,
            Self::ByKey(source) => Some(source.of(event).into()),
            Self::Strict => Some("".into()),
        }
    }

    /// Is there any order to keep?
    pub fn is_kept(&self) -> bool {
        *self != Self::None
    }

    /// The word of the configuration.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ByKey(_) => "key",
            Self::Strict => "strict",
        }
    }
}

/// What becomes of a delivery that cannot be made, where others wait behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeadOfLine {
    /// It becomes a dead letter as without order, and the order goes on without it.
    #[default]
    DeadLetter,
    /// It is tried until it is delivered or taken away, and the others wait.
    Wait,
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::domain::event::{Header, Position, StreamName};

    fn event(kind: &str, headers: &[(&str, &str)]) -> Event {
        let header = |(name, value): &(&str, &str)| Header { name: (*name).into(), value: (*value).into() };
        Event {
            id: "e".into(),
            kind: kind.into(),
            subject: kind.into(),
            position: Position { stream: StreamName::parse("S").expect("a name"), sequence: 1 },
            time_ms: 0,
            headers: headers.iter().map(header).collect(),
            content_type: None,
            data: Bytes::new(),
            undecodable: None,
        }
    }

    #[test]
    fn a_key_is_a_token_of_the_type_or_a_header_and_empty_where_there_is_none() {
        let token = |n| Order::ByKey(KeySource::Token(NonZeroU32::new(n).expect("not 0")));
        let paid = event("orders.eu.paid", &[("X-Tenant", "acme")]);
        assert_eq!(token(1).key_of(&paid).as_deref(), Some("orders"));
        assert_eq!(token(2).key_of(&paid).as_deref(), Some("eu"));
        assert_eq!(token(4).key_of(&paid).as_deref(), Some(""));
        let header = Order::ByKey(KeySource::Header("x-tenant".into()));
        assert_eq!(header.key_of(&paid).as_deref(), Some("acme"));
        assert_eq!(header.key_of(&event("a", &[])).as_deref(), Some(""));
        assert_eq!(Order::Strict.key_of(&paid).as_deref(), Some(""));
        assert_eq!(Order::None.key_of(&paid), None);
    }
}

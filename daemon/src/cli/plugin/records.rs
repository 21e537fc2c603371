//! The records of an event fixture, which are the SDK's, as the daemon has them.

use sluiced_sdk::{Event, Header, Output};

use crate::domain::{self, Position, StreamName};

/// The event of a fixture.
///
/// # Errors
/// When its stream's name is none.
pub(super) fn event(event: &Event) -> anyhow::Result<domain::Event> {
    let header =
        |header: &Header| domain::Header { name: header.name.as_str().into(), value: header.value.as_str().into() };
    Ok(domain::Event {
        id: event.id.as_str().into(),
        kind: event.type_.as_str().into(),
        subject: event.subject.as_str().into(),
        position: Position { stream: StreamName::parse(&event.stream)?, sequence: event.sequence },
        time_ms: event.time_ms,
        headers: event.headers.iter().map(header).collect(),
        content_type: event.content_type.as_deref().map(Into::into),
        data: event.data.clone().into(),
        undecodable: None,
    })
}

/// An output, in a fixture's terms.
pub(super) fn output(made: domain::Output) -> Output {
    let header = |header: domain::Header| Header { name: header.name.into(), value: header.value.into() };
    Output {
        data: made.data.into(),
        content_type: made.content_type.map(Into::into),
        headers: made.headers.into_iter().map(header).collect(),
        type_: made.kind.map(Into::into),
    }
}

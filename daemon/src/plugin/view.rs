//! Events on their way into the sandbox, and outputs on their way out.

use bytes::Bytes;
use smallvec::SmallVec;

use super::Limits;
use super::bindings::v1::sluiced::plugin::types as guest;
use super::description::{Description, HeaderNeeds};
use super::fault::FaultKind;
use crate::domain::{Event, Header, Output, Subject};

/// The headers of an event as the guest gets them: borrowed, and few enough to need no allocation.
pub(super) type Headers<'a> = SmallVec<[guest::HeaderParam<'a>; 8]>;

/// An event as a plugin sees it: what an earlier transform made of it laid over the event as it came.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    event: &'a Event,
    part: &'a Output,
}

impl<'a> View<'a> {
    pub(super) fn new(event: &'a Event, part: &'a Output) -> Self {
        Self { event, part }
    }

    /// The headers that the plugin asks for.
    pub(super) fn headers(self, needs: &HeaderNeeds) -> Headers<'a> {
        if *needs == HeaderNeeds::None {
            return SmallVec::new();
        }
        let kept = self.event.headers.iter().filter(|header| !sets(self.part, &header.name));
        kept.chain(&self.part.headers)
            .filter(|header| needs.includes(&header.name))
            .map(|header| guest::HeaderParam { name: &header.name, value: &header.value })
            .collect()
    }

    /// The event for the guest. Nothing is copied before it is written into the sandbox, and what the plugin does not
    /// ask for never is.
    pub(super) fn lower(self, description: &Description, headers: &'a [guest::HeaderParam<'a>]) -> guest::Event<'a> {
        let Self { event, part } = self;
        guest::Event {
            id: &event.id,
            type_: part.kind.as_deref().unwrap_or(&event.kind),
            subject: &event.subject,
            stream: event.position.stream.as_str(),
            sequence: event.position.sequence,
            time_ms: event.time_ms,
            content_type: part.content_type.as_deref().or(event.content_type.as_deref()),
            headers,
            data: if description.needs_payload { &part.data } else { &[] },
        }
    }
}

/// The event itself as the one thing to deliver. The payload is shared.
pub(super) fn whole(event: &Event) -> Output {
    Output { data: event.data.clone(), content_type: None, headers: Vec::new(), kind: None }
}

/// What a transform made of a part: what it does not set stays as the part had it.
pub(super) fn laid_over(part: &Output, made: Output) -> Output {
    let mut headers: Vec<Header> = Vec::new();
    headers.extend(part.headers.iter().filter(|header| !sets(&made, &header.name)).cloned());
    headers.extend(made.headers);
    Output {
        data: made.data,
        content_type: made.content_type.or_else(|| part.content_type.clone()),
        headers,
        kind: made.kind.or_else(|| part.kind.clone()),
    }
}

fn sets(part: &Output, name: &str) -> bool {
    part.headers.iter().any(|header| header.name.eq_ignore_ascii_case(name))
}

/// What one event may still become in one transform.
pub(super) struct Allowance<'a> {
    limits: &'a Limits,
    outputs: usize,
    bytes: usize,
}

impl<'a> Allowance<'a> {
    pub(super) fn new(limits: &'a Limits) -> Self {
        Self { limits, outputs: 0, bytes: 0 }
    }

    /// Takes in what a transform gave for one input.
    ///
    /// # Errors
    /// When it is too much, or something that cannot be delivered.
    pub(super) fn take(&mut self, outputs: Vec<guest::Output>) -> Result<Vec<Output>, FaultKind> {
        self.outputs = self.outputs.saturating_add(outputs.len());
        if self.outputs > self.limits.outputs_max {
            return refused(format!("more than {} outputs", self.limits.outputs_max));
        }
        outputs.into_iter().map(|output| self.lift(output)).collect()
    }

    fn lift(&mut self, output: guest::Output) -> Result<Output, FaultKind> {
        if output.headers.len() > self.limits.output_headers_max {
            return refused(format!("more than {} headers", self.limits.output_headers_max));
        }
        let header_bytes: usize = output.headers.iter().map(|header| header.name.len() + header.value.len()).sum();
        self.bytes = self.bytes.saturating_add(output.data.len()).saturating_add(header_bytes);
        if self.bytes > self.limits.output_bytes_max {
            return refused(format!("more than {} bytes", self.limits.output_bytes_max));
        }
        if let Some(header) = output.headers.iter().find(|header| !is_header_name(&header.name)) {
            return refused(format!("{:?} is not a header name", super::fault::cut(&header.name, 64)));
        }
        if let Some(header) = output.headers.iter().find(|header| !is_header_value(&header.value)) {
            return refused(format!("the value of the header `{}` has control or non-ASCII characters", header.name));
        }
        if output.content_type.as_deref().is_some_and(|text| text.is_empty() || !is_header_value(text)) {
            return refused("the content type is empty or has control or non-ASCII characters".into());
        }
        if output.type_.as_deref().is_some_and(|text| Subject::parse(text).is_err()) {
            return refused("the event type is not a valid subject".into());
        }
        Ok(Output {
            data: Bytes::from(output.data),
            content_type: output.content_type.map(String::into_boxed_str),
            headers: output.headers.into_iter().map(header).collect(),
            kind: output.type_.map(String::into_boxed_str),
        })
    }
}

fn header(header: guest::HeaderResult) -> Header {
    Header { name: header.name.into(), value: header.value.into() }
}

fn refused<T>(reason: String) -> Result<T, FaultKind> {
    Err(FaultKind::Output { reason: reason.into() })
}

/// A token of RFC 9110.
fn is_header_name(text: &str) -> bool {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(token)
}

fn is_header_value(text: &str) -> bool {
    text.bytes().all(|b| b == b'\t' || (b' '..=b'~').contains(&b))
}

#[cfg(test)]
mod tests;

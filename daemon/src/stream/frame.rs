//! The text of Server-Sent Events, as the WHATWG specification has it.
//!
//! A frame is `id:`, `event:` with the event's type, and a `data:` line for each line of the payload. The format knows
//! only lines of text, so CR LF and CR reach the client as LF. A payload that is not UTF-8 is sent as base64 (RFC 4648,
//! padded), and its `event:` ends in `;base64`, which no event type does by itself: an `EventSource` listens to
//! `orders.created;base64`. An id is a [`Cursor`](super::Cursor) and so never holds a line end; line ends and NUL are taken out of a type.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::json;
use smallvec::SmallVec;

use super::cursor::{Part, Seen, Tag};
use crate::domain::{Event, Output, StreamName};

/// What the `event:` of a frame with base64 data ends in.
pub const BASE64_SUFFIX: &str = ";base64";
/// The type of the frame that says that history is gone.
pub const GAP: &str = "gap";
/// The type of the frame that says that a new token is wanted.
pub const TOKEN_EXPIRING: &str = "token-expiring";
/// A heartbeat.
pub(super) const HEARTBEAT: &str = ":\n\n";

/// The frames of one event, rendered once for all clients: one, or as many as a transform made of it; none when plugins
/// dropped it. Only the last carries an `id:`, so a client that is cut off between two parts gets them all again.
#[derive(Debug, Default)]
pub(super) struct Frames {
    parts: SmallVec<[Bytes; 1]>,
    /// How many bytes of the last part are the `id:` line of a client that sees one stream only.
    id_bytes: usize,
}

impl Frames {
    /// The frame of an event as it is.
    pub(super) fn of_event(event: &Event, tag: Tag) -> Self {
        Self::render(event, tag, &[(&event.kind, &event.data)])
    }

    /// The frames of what plugins made of an event.
    pub(super) fn of_outputs(event: &Event, tag: Tag, outputs: &[Output]) -> Self {
        let parts: Vec<(&str, &Bytes)> =
            outputs.iter().map(|o| (o.kind.as_deref().unwrap_or(&event.kind), &o.data)).collect();
        Self::render(event, tag, &parts)
    }

    /// `tag` is that of the event's stream.
    fn render(event: &Event, tag: Tag, parts: &[(&str, &Bytes)]) -> Self {
        let mut frames = Self::default();
        for (at, (kind, data)) in parts.iter().enumerate() {
            let mut text = Vec::with_capacity(data.len() + kind.len() + 96);
            if at + 1 == parts.len() {
                let seen = Seen { sequence: event.position.sequence, tag: Some(tag) };
                text.extend_from_slice(id_line(Part(&event.position.stream, seen)).as_bytes());
                frames.id_bytes = text.len();
            }
            write_body(&mut text, kind, data);
            frames.parts.push(text.into());
        }
        frames
    }

    /// Is there nothing to send?
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// How many bytes they have.
    pub(super) fn bytes(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }

    /// The frames for a client that sees this stream only.
    pub(super) fn shared(&self) -> impl ExactSizeIterator<Item = Bytes> {
        self.parts.iter().cloned()
    }

    /// The frames for a client that stands at this cursor after them.
    pub(super) fn with_cursor(&self, cursor: impl std::fmt::Display) -> impl ExactSizeIterator<Item = Bytes> {
        let mut id = Some(id_line(cursor));
        self.parts.iter().enumerate().map(move |(at, part)| match id.take_if(|_| at + 1 == self.parts.len()) {
            Some(id) => [id.as_bytes(), &part[self.id_bytes..]].concat().into(),
            None => part.clone(),
        })
    }
}

/// An `id:` line.
pub(super) fn id_line(cursor: impl std::fmt::Display) -> String {
    format!("id: {cursor}\n")
}

/// History that a client asked for, and that is not there.
pub(super) struct Gone<'a> {
    pub(super) stream: &'a StreamName,
    /// How far the client was.
    pub(super) seen: Seen,
    /// The first sequence that comes now.
    pub(super) available: u64,
    /// The tag of the stream that there is.
    pub(super) tag: Tag,
    /// The client was in another stream of that name, or this one has lost what the client saw of it.
    pub(super) is_replaced: bool,
}

/// The frame that announces that history is gone. `asked` and `available` are sequences: the first that was asked for, and
/// the first that comes now. `asked_id` is the id that the client came with, as far as it is of this stream, and
/// `available_id` that of the first event that is still there. `missing_at_most` is null when the stream was replaced, and
/// nothing is known of what was. Without a cursor another gap follows, which has it.
pub(super) fn gap(cursor: Option<impl std::fmt::Display>, gone: &Gone<'_>) -> Bytes {
    let Gone { stream, seen, available, tag, is_replaced } = *gone;
    let asked = seen.sequence + 1;
    let data = json!({
        "stream": stream.as_str(),
        "asked": asked,
        "asked_id": Part(stream, seen).to_string(),
        "available": available,
        "available_id": Part(stream, Seen { sequence: available, tag: Some(tag) }).to_string(),
        "missing_at_most": if is_replaced { None } else { Some(available.saturating_sub(asked)) },
        "reason": if is_replaced { "replaced" } else { "discarded" },
    });
    format!("{}event: {GAP}\ndata: {data}\n\n", cursor.map(id_line).unwrap_or_default()).into()
}

/// A frame of the daemon's own, which is no event and has no place.
pub fn announcement(kind: &str, data: &serde_json::Value) -> Bytes {
    format!("event: {kind}\ndata: {data}\n\n").into()
}

fn write_body(out: &mut Vec<u8>, kind: &str, data: &[u8]) {
    let text = std::str::from_utf8(data);
    out.extend_from_slice(b"event: ");
    out.extend(kind.bytes().filter(|b| !matches!(b, b'\n' | b'\r' | 0)));
    if text.is_err() {
        out.extend_from_slice(BASE64_SUFFIX.as_bytes());
    }
    out.push(b'\n');
    match text {
        Ok(text) => lines(text).for_each(|line| write_data(out, line)),
        Err(_) => write_data(out, &STANDARD.encode(data)),
    }
    out.push(b'\n');
}

fn write_data(out: &mut Vec<u8>, line: &str) {
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(line.as_bytes());
    out.push(b'\n');
}

/// The lines of a text, which end in LF, CR LF or CR. A text without any is one line, the empty one too.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let now = rest?;
        let Some(end) = now.bytes().position(|b| matches!(b, b'\n' | b'\r')) else {
            return rest.take();
        };
        let (line, after) = now.split_at(end);
        rest = Some(after.strip_prefix("\r\n").unwrap_or(&after[1..]));
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::testing::event;
    use crate::stream::testing::parse;
    use proptest::prelude::*;

    fn tag() -> Tag {
        Tag::of(1)
    }

    /// The id of a frame.
    fn id(sequence: u64) -> String {
        format!("EVENTS:{sequence}:{}", tag())
    }

    fn data_of(data: &[u8]) -> Vec<(String, String, String)> {
        let mut event = event("EVENTS", 7, "a.b");
        event.data = Bytes::copy_from_slice(data);
        let frames = Frames::of_event(&event, tag());
        parse(&frames.shared().flat_map(|b| b.to_vec()).collect::<Vec<_>>())
    }

    fn one(kind: &str, data: &str) -> Vec<(String, String, String)> {
        vec![(id(7), kind.to_owned(), data.to_owned())]
    }

    #[test]
    fn a_client_reads_what_was_sent() {
        for text in ["", "x", " x", "\n", "a\n", "a\n\nb", "{\"a\": \"ü 😀\"}", "nul\0nul", ":x", "id: 9", "\u{feff}x"]
        {
            assert_eq!(data_of(text.as_bytes()), one("a.b", text), "{text:?}");
        }
        for text in ["a\nb", "a\rb", "a\r\nb"] {
            assert_eq!(data_of(text.as_bytes()), one("a.b", "a\nb"), "{text:?}");
        }
        assert_eq!(data_of(b"a\n\r\r\nb"), one("a.b", "a\n\n\nb"));
        assert_eq!(data_of(b"\r"), one("a.b", "\n"));
        assert_eq!(data_of(&[0xff, 0, 1]), one("a.b;base64", "/wAB"));
        let large = "x".repeat(1 << 20);
        assert_eq!(data_of(large.as_bytes()), one("a.b", &large));
    }

    #[test]
    fn no_line_end_gets_into_a_type() {
        let mut event = event("EVENTS", 7, "a.b");
        event.kind = "a\nid: 9\r\0.b".into();
        let text: Vec<u8> = Frames::of_event(&event, tag()).shared().flat_map(|b| b.to_vec()).collect();
        assert_eq!(parse(&text), [(id(7), "aid: 9.b".to_owned(), event.data_text())]);
    }

    #[test]
    fn only_the_last_part_has_an_id() {
        let event = event("EVENTS", 7, "a.b");
        let output = |data: &'static str, kind: Option<&str>| Output {
            data: Bytes::from_static(data.as_bytes()),
            content_type: None,
            headers: Vec::new(),
            kind: kind.map(Into::into),
        };
        let frames = Frames::of_outputs(&event, tag(), &[output("1", None), output("2", Some("c"))]);
        let shared: Vec<Bytes> = frames.shared().collect();
        assert_eq!(shared, ["event: a.b\ndata: 1\n\n".to_owned(), format!("id: {}\nevent: c\ndata: 2\n\n", id(7))]);
        let own: Vec<Bytes> = frames.with_cursor("EVENTS:7,ORDERS:1").collect();
        assert_eq!(own, ["event: a.b\ndata: 1\n\n", "id: EVENTS:7,ORDERS:1\nevent: c\ndata: 2\n\n"]);
        assert!(Frames::of_outputs(&event, tag(), &[]).is_empty());
    }

    #[test]
    fn a_gap_says_what_is_missing() {
        let stream = StreamName::parse("EVENTS").unwrap();
        let read = |bytes: Bytes| {
            let (id, kind, data) = parse(&bytes).remove(0);
            (id, kind, serde_json::from_str::<serde_json::Value>(&data).unwrap())
        };
        let seen = Seen { sequence: 4, tag: Some(tag()) };
        let gone = Gone { stream: &stream, seen, available: 20, tag: tag(), is_replaced: false };
        let (at, kind, data) = read(gap(Some("EVENTS:19"), &gone));
        assert_eq!((&*at, &*kind), ("EVENTS:19", "gap"));
        let expected = json!({
            "stream": "EVENTS", "asked": 5, "asked_id": id(4), "available": 20, "available_id": id(20),
            "missing_at_most": 15, "reason": "discarded",
        });
        assert_eq!(data, expected);
        let seen = Seen { sequence: 4, tag: None };
        let (.., data) = read(gap(Some("EVENTS:0"), &Gone { seen, available: 1, is_replaced: true, ..gone }));
        let expected = json!({
            "stream": "EVENTS", "asked": 5, "asked_id": "EVENTS:4", "available": 1, "available_id": id(1),
            "missing_at_most": null, "reason": "replaced",
        });
        assert_eq!(data, expected);
    }

    proptest! {
        #[test]
        fn every_text_arrives_with_its_line_ends_as_lf(text in "[a:\\r\\n\\x00 é]{0,40}") {
            let expected = text.replace("\r\n", "\n").replace('\r', "\n");
            prop_assert_eq!(data_of(text.as_bytes()), one("a.b", &expected));
        }
    }
}

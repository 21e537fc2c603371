//! The bytes of parked deliveries and dead letters, with their attempts.

use bytes::Bytes;

use super::super::Error;
use super::super::records::{Attempt, Content, DeadLetter, LastFailure, Parked};
use super::super::wire::{Reader, Writer};
use super::{BodyRef, RECORD_BYTES_TYPICAL, StoredBody};
use crate::domain::{DeliveryId, Header, Position, Response, SubscriptionId};

/// The current version of parked deliveries and dead letters.
const DELIVERY: u8 = 2;

fn write_content(w: &mut Writer, content: &Content, file: Option<BodyRef>) {
    w.text(&content.event_id);
    w.text(&content.event_type);
    w.number(content.event_time_ms);
    w.option(content.content_type.as_deref(), Writer::text);
    write_headers(w, &content.headers);
    match file {
        None => {
            w.0.push(0);
            w.bytes(&content.body);
        }
        Some(file) => {
            w.0.push(1);
            w.number(file.length);
            w.0.extend_from_slice(&file.digest);
        }
    }
}

fn read_content(r: &mut Reader<'_>) -> Option<(Content, StoredBody)> {
    let content = Content {
        event_id: r.boxed()?,
        event_type: r.boxed()?,
        event_time_ms: r.number()?,
        content_type: r.option(Reader::boxed)?,
        headers: read_headers(r)?,
        body: Bytes::new(),
    };
    let body = match r.byte()? {
        0 => StoredBody::Inline(Bytes::copy_from_slice(r.bytes()?)),
        1 => {
            let length = r.number()?;
            let mut digest = [0; 8];
            digest.copy_from_slice(r.take(8)?);
            StoredBody::File(BodyRef { length, digest })
        }
        _ => return None,
    };
    Some((content, body))
}

fn write_headers(w: &mut Writer, headers: &[Header]) {
    w.number(headers.len() as u64);
    for header in headers {
        w.text(&header.name);
        w.text(&header.value);
    }
}

fn read_headers(r: &mut Reader<'_>) -> Option<Vec<Header>> {
    let mut headers = Vec::new();
    for _ in 0..r.number()? {
        headers.push(Header { name: r.boxed()?, value: r.boxed()? });
    }
    Some(headers)
}

pub(in crate::store) fn write_response(w: &mut Writer, response: &Response) {
    write_headers(w, &response.headers);
    w.bytes(&response.body);
    w.0.push(u8::from(response.truncated));
}

pub(in crate::store) fn read_response(r: &mut Reader<'_>) -> Option<Response> {
    let headers = read_headers(r)?;
    let body = Bytes::copy_from_slice(r.bytes()?);
    Some(Response { headers, body, truncated: r.byte()? != 0 })
}

fn write_history(w: &mut Writer, history: &[Attempt]) {
    w.number(history.len() as u64);
    for attempt in history {
        w.number(u64::from(attempt.number));
        w.number(attempt.at_ms);
        w.number(attempt.took_ms);
        w.option(attempt.status, |w, status| w.number(u64::from(status)));
        w.option(attempt.class.as_deref(), Writer::text);
        w.text(&attempt.message);
        w.option(attempt.response.as_ref(), write_response);
    }
}

fn read_history(r: &mut Reader<'_>) -> Option<Vec<Attempt>> {
    let mut history = Vec::new();
    for _ in 0..r.number()? {
        history.push(Attempt {
            number: r.small()?,
            at_ms: r.number()?,
            took_ms: r.number()?,
            status: r.option(status)?,
            class: r.option(Reader::boxed)?,
            message: r.boxed()?,
            response: r.option(read_response)?,
        });
    }
    Some(history)
}

fn status(r: &mut Reader<'_>) -> Option<u16> {
    u16::try_from(r.number()?).ok()
}

fn write_failure(w: &mut Writer, failure: &LastFailure) {
    w.text(&failure.class);
    w.option(failure.status, |w, status| w.number(u64::from(status)));
    w.text(&failure.message);
}

fn read_failure(r: &mut Reader<'_>) -> Option<LastFailure> {
    Some(LastFailure { class: r.boxed()?, status: r.option(status)?, message: r.boxed()? })
}

fn write_place(w: &mut Writer, position: &Position, part: u32, parts: u32) {
    w.text(position.stream.as_str());
    w.number(position.sequence);
    w.number(u64::from(part));
    w.number(u64::from(parts));
}

fn read_place(r: &mut Reader<'_>) -> Option<(Position, u32, u32)> {
    let position = Position { stream: r.stream()?, sequence: r.number()? };
    Some((position, r.small()?, r.small()?))
}

fn room(content: &Content, file: Option<BodyRef>, history: &[Attempt]) -> usize {
    RECORD_BYTES_TYPICAL * (1 + history.len()) + if file.is_some() { 0 } else { content.body.len() }
}

pub(in crate::store) fn write_parked(parked: &Parked, file: Option<BodyRef>) -> Vec<u8> {
    let mut w = Writer::record(DELIVERY, room(&parked.content, file, &parked.history));
    write_place(&mut w, &parked.position, parked.part, parked.parts);
    w.number(u64::from(parked.attempts));
    w.number(parked.first_attempt_ms);
    w.option(parked.last_failure.as_ref(), write_failure);
    write_content(&mut w, &parked.content, file);
    w.number(parked.created_ms);
    w.number(u64::from(parked.resent_after));
    w.option(parked.order_key.as_deref(), Writer::text);
    write_history(&mut w, &parked.history);
    w.0
}

/// A parked delivery from its key's parts and its record. Its body is still empty: the caller puts it in.
pub(in crate::store) fn read_parked(
    subscription: SubscriptionId,
    due_ms: u64,
    delivery: DeliveryId,
    record: &[u8],
) -> Result<(Parked, StoredBody), Error> {
    let read = || {
        let (version, mut r) = Reader::record(record, DELIVERY)?;
        let (position, part, parts) = read_place(&mut r)?;
        let (attempts, first_attempt_ms) = (r.small()?, r.number()?);
        let last_failure = r.option(read_failure)?;
        let (content, body) = read_content(&mut r)?;
        let (created_ms, resent_after, order_key, history) = match version {
            1 => (first_attempt_ms, 0, None, Vec::new()),
            _ => (r.number()?, r.small()?, r.option(Reader::boxed)?, read_history(&mut r)?),
        };
        let parked = Parked {
            delivery,
            subscription,
            position,
            part,
            parts,
            due_ms,
            attempts,
            first_attempt_ms,
            last_failure,
            content,
            created_ms,
            resent_after,
            order_key,
            history,
        };
        Some((parked, body))
    };
    read().ok_or(Error::Record { what: "parked delivery" })
}

pub(in crate::store) fn write_dead(letter: &DeadLetter, file: Option<BodyRef>) -> Vec<u8> {
    let mut w = Writer::record(DELIVERY, room(&letter.content, file, &letter.history));
    write_place(&mut w, &letter.position, letter.part, letter.parts);
    w.number(u64::from(letter.attempts));
    w.number(letter.first_attempt_ms);
    write_failure(&mut w, &letter.failure);
    write_content(&mut w, &letter.content, file);
    w.number(letter.created_ms);
    w.number(u64::from(letter.resent_after));
    write_history(&mut w, &letter.history);
    w.0
}

/// A dead letter from its key's parts and its record. Its body is still empty: the caller puts it in.
pub(in crate::store) fn read_dead(
    subscription: SubscriptionId,
    failed_ms: u64,
    delivery: DeliveryId,
    record: &[u8],
) -> Result<(DeadLetter, StoredBody), Error> {
    let read = || {
        let (version, mut r) = Reader::record(record, DELIVERY)?;
        let (position, part, parts) = read_place(&mut r)?;
        let (attempts, first_attempt_ms) = (r.small()?, r.number()?);
        let failure = read_failure(&mut r)?;
        let (content, body) = read_content(&mut r)?;
        let (created_ms, resent_after, history) = match version {
            1 => (first_attempt_ms, 0, Vec::new()),
            _ => (r.number()?, r.small()?, read_history(&mut r)?),
        };
        let letter = DeadLetter {
            delivery,
            subscription,
            position,
            part,
            parts,
            failed_ms,
            attempts,
            first_attempt_ms,
            failure,
            content,
            created_ms,
            resent_after,
            history,
        };
        Some((letter, body))
    };
    read().ok_or(Error::Record { what: "dead letter" })
}

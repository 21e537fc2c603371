//! A delivery as answers show it, from whichever record it has.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;
use utoipa::ToSchema;

use super::Status;
use crate::api::answer::{Body, Try, headers};
use crate::domain::{DeliveryId, FailureClass, Position, SubscriptionId};
use crate::store::{
    Content, DeadLetter, Disposition, Error, LastFailure, LogEntry, LogFilter, LogKey, Parked, Store, Whereabouts,
};
use crate::telemetry::clock;

/// How many pages of the log are gone through for one page of deliveries: attempts that others followed are passed over.
const LOG_PAGES_MAX: usize = 10;

/// A delivery: one event, or one output of its transforms, for one webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = DeliveryRecord)]
pub(super) struct Shown {
    id: String,
    /// The webhook's id, or the name of a subscription of the file.
    webhook: String,
    status: Status,
    /// The event's stream.
    stream: String,
    /// The event's place in its stream.
    sequence: u64,
    /// Which of the event's outputs it is; 0 is the first.
    part: u32,
    /// How many outputs the event has.
    parts: u32,
    /// The event's id; of a delivery that came to its end only `stream` and `sequence` are on record.
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<String>,
    /// The event's type, as `event_id`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    /// How many attempts were made.
    attempts: u32,
    /// The status that the receiver answered the last attempt with.
    #[serde(skip_serializing_if = "Option::is_none")]
    response_status: Option<u16>,
    /// Whose fault the last failure was.
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<String>,
    /// What happened at the last failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    next_attempt_at: Option<String>,
    /// When it came about; a listing does not know it of a delivery that came to its end after several attempts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    created_at: Option<String>,
    /// When its last attempt was made, or what else changed it last.
    #[schema(format = DateTime)]
    updated_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    delivered_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    failed_at: Option<String>,
}

/// A delivery with its attempts and what was to be sent.
#[derive(Serialize, ToSchema)]
#[schema(as = DeliveryWithAttempts)]
pub(super) struct Whole {
    #[serde(flatten)]
    shown: Shown,
    /// Its attempts, oldest first, as far as they are kept.
    history: Vec<Try>,
    /// What is to be sent, or was given up. Of what was delivered nothing is kept: the event itself has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Payload>,
    #[serde(skip)]
    subscription: Option<SubscriptionId>,
}

/// What is sent.
#[derive(Serialize, ToSchema)]
#[schema(as = DeliveryContent)]
struct Payload {
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    headers: Vec<[String; 2]>,
    #[serde(flatten)]
    body: Body,
}

impl From<&Content> for Payload {
    fn from(content: &Content) -> Self {
        Self {
            content_type: content.content_type.as_deref().map(ToOwned::to_owned),
            headers: headers(&content.headers),
            body: Body::from(&content.body[..]),
        }
    }
}

/// When a parked delivery changed last, in milliseconds since the Unix epoch.
pub(super) fn updated_ms(parked: &Parked) -> u64 {
    parked.history.last().map_or(parked.created_ms, |last| last.at_ms.saturating_add(last.took_ms))
}

impl Shown {
    pub(super) fn status(&self) -> Status {
        self.status
    }

    pub(super) fn is_of_kind(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind)
    }

    /// What every record has of a delivery.
    fn new(
        subscription: &SubscriptionId,
        position: &Position,
        (part, parts): (u32, u32),
        status: Status,
        updated_ms: u64,
    ) -> Self {
        Self {
            id: DeliveryId::derive(subscription, position, part).to_string(),
            webhook: subscription.to_string(),
            status,
            stream: position.stream.to_string(),
            sequence: position.sequence,
            part,
            parts,
            event_id: None,
            kind: None,
            attempts: 0,
            response_status: None,
            class: None,
            error: None,
            next_attempt_at: None,
            created_at: None,
            updated_at: clock::rfc3339(updated_ms),
            delivered_at: None,
            failed_at: None,
        }
    }

    /// What records with a body have besides.
    fn with(self, content: &Content, failure: Option<&LastFailure>, created_ms: u64, attempts: u32) -> Self {
        Self {
            event_id: Some(content.event_id.to_string()),
            kind: Some(content.event_type.to_string()),
            attempts,
            response_status: failure.and_then(|failure| failure.status),
            class: failure.map(|failure| failure.class.to_string()),
            error: failure.map(|failure| failure.message.to_string()),
            created_at: Some(clock::rfc3339(created_ms)),
            ..self
        }
    }
}

impl From<&Parked> for Shown {
    fn from(parked: &Parked) -> Self {
        let parts = (parked.part, parked.parts);
        let shown = Self::new(&parked.subscription, &parked.position, parts, Status::Pending, updated_ms(parked));
        Self {
            next_attempt_at: Some(clock::rfc3339(parked.due_ms)),
            ..shown.with(&parked.content, parked.last_failure.as_ref(), parked.created_ms, parked.attempts)
        }
    }
}

impl From<&DeadLetter> for Shown {
    fn from(letter: &DeadLetter) -> Self {
        let parts = (letter.part, letter.parts);
        let shown = Self::new(&letter.subscription, &letter.position, parts, Status::Failed, letter.failed_ms);
        Self {
            failed_at: Some(clock::rfc3339(letter.failed_ms)),
            ..shown.with(&letter.content, Some(&letter.failure), letter.created_ms, letter.attempts)
        }
    }
}

impl From<&LogEntry> for Shown {
    /// What an entry of the log says by itself; a delivery that was parked is no longer, when nothing else is known of it.
    fn from(entry: &LogEntry) -> Self {
        let status = match entry.disposition {
            Disposition::Delivered => Status::Delivered,
            Disposition::Dropped => Status::Dropped,
            Disposition::Parked | Disposition::Dead => Status::Failed,
        };
        let at = || Some(clock::rfc3339(entry.at_ms));
        let detail = entry.detail.as_deref();
        let failed = entry.class.is_some();
        // An entry tells how long its attempt took only when it has details.
        let created_ms = entry.at_ms.saturating_sub(detail.map_or(0, |detail| detail.took_ms));
        let shown = Self::new(&entry.subscription, &entry.position, (entry.part, entry.parts), status, entry.at_ms);
        Self {
            attempts: entry.attempt,
            response_status: entry.status,
            class: entry.class.map(|class| FailureClass::as_str(class).to_owned()),
            error: detail.filter(|_| failed).map(|detail| detail.message.to_string()),
            created_at: (entry.attempt <= 1).then(|| clock::rfc3339(created_ms)),
            delivered_at: at().filter(|_| status == Status::Delivered),
            failed_at: at().filter(|_| status == Status::Failed),
            ..shown
        }
    }
}

/// What an entry of the log says of its delivery as it stands now; `None` when another entry speaks for it.
fn now(store: &Store, entry: &LogEntry) -> Result<Option<Shown>, Error> {
    if matches!(entry.disposition, Disposition::Delivered | Disposition::Dropped) {
        return Ok(Some(Shown::from(entry)));
    }
    let id = entry.delivery();
    Ok(match store.whereabouts(&id)? {
        Some(Whereabouts::Parked { .. }) => {
            store.parked(&id)?.filter(|parked| parked.attempts == entry.attempt).as_ref().map(Shown::from)
        }
        Some(Whereabouts::Dead { .. }) => {
            store.dead_letter(&id)?.filter(|letter| letter.attempts == entry.attempt).as_ref().map(Shown::from)
        }
        // It was given up, and its letter was removed, or it was sent again and came to another end.
        None if entry.disposition == Disposition::Dead => Some(Shown::from(entry)),
        None => None,
    })
}

/// A page of deliveries by the log, newest first, and the place after it.
pub(super) fn log_rows(
    store: &Store,
    filter: &LogFilter,
    mut before: Option<LogKey>,
    limit: usize,
) -> Result<(Vec<Shown>, Option<LogKey>), Error> {
    let (mut rows, mut seen) = (Vec::new(), HashSet::new());
    for _ in 0..LOG_PAGES_MAX {
        let page = store.log_page(filter, before, limit)?;
        for (at, entry) in &page.entries {
            if seen.insert(entry.delivery())
                && let Some(row) = now(store, entry)?
            {
                rows.push(row);
                if rows.len() >= limit {
                    return Ok((rows, Some(*at)));
                }
            }
        }
        before = page.next;
        if before.is_none() || page.entries.is_empty() {
            break;
        }
    }
    Ok((rows, before))
}

/// The deliveries of one event, by webhook and part: those that the log has, and those of `running` that are parked or were
/// given up.
pub(super) fn of_event(
    store: &Store,
    position: &Position,
    running: Vec<SubscriptionId>,
    wanted: Option<&[SubscriptionId]>,
) -> Result<Vec<Shown>, Error> {
    let mut rows = BTreeMap::new();
    for entry in store.event_log(position)?.entries {
        if wanted.is_none_or(|wanted| wanted.contains(&entry.subscription)) {
            rows.insert((entry.subscription.clone(), entry.part), Shown::from(&entry));
        }
    }
    let known: Vec<_> = rows.keys().cloned().chain(running.into_iter().map(|id| (id, 0))).collect();
    for (subscription, part) in known {
        let id = DeliveryId::derive(&subscription, position, part);
        let shown = match store.whereabouts(&id)? {
            Some(Whereabouts::Parked { .. }) => store.parked(&id)?.as_ref().map(Shown::from),
            Some(Whereabouts::Dead { .. }) => store.dead_letter(&id)?.as_ref().map(Shown::from),
            None => None,
        };
        if let Some(shown) = shown {
            rows.insert((subscription, part), shown);
        }
    }
    Ok(rows.into_values().collect())
}

impl Whole {
    /// The delivery's subscription.
    pub(super) fn subscription(&self) -> &SubscriptionId {
        self.subscription.as_ref().expect("it is set where the value is made")
    }

    /// A delivery, from whichever record it has.
    pub(super) fn find(store: &Store, delivery: &DeliveryId) -> Result<Option<Self>, Error> {
        if let Some(parked) = store.parked(delivery)? {
            return Ok(Some(Self {
                shown: Shown::from(&parked),
                history: parked.history.iter().map(Try::from).collect(),
                content: Some(Payload::from(&parked.content)),
                subscription: Some(parked.subscription),
            }));
        }
        if let Some(letter) = store.dead_letter(delivery)? {
            return Ok(Some(Self {
                shown: Shown::from(&letter),
                history: letter.history.iter().map(Try::from).collect(),
                content: Some(Payload::from(&letter.content)),
                subscription: Some(letter.subscription),
            }));
        }
        let Some(last) = store.logged(delivery)? else { return Ok(None) };
        let all = store.event_log(&last.position)?.entries;
        let own: Vec<LogEntry> = all.into_iter().filter(|entry| entry.delivery() == *delivery).collect();
        let mut shown = Shown::from(&last);
        if shown.created_at.is_none() {
            shown.created_at =
                own.first().filter(|first| first.attempt <= 1).and_then(|first| Shown::from(first).created_at);
        }
        let attempts = own.iter().filter(|entry| entry.attempt > 0);
        Ok(Some(Self {
            shown,
            history: attempts.map(Try::from).collect(),
            content: None,
            subscription: Some(last.subscription),
        }))
    }
}

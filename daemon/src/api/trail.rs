//! What goes into the audit log: the changes that were made, field by field, and those that were refused.

use std::net::IpAddr;

use axum::response::Response;
use http::StatusCode;
use http::header::LOCATION;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Map, Value};
use tracing::{error, info};

use super::Principal;
use super::problem::Code;
use crate::store::{AuditChange, AuditRecord, Store};
use crate::telemetry::{chain, clock};

/// How many refused changes a minute go into the audit log: whoever is refused must not push out what was changed.
pub(super) const AUDIT_REFUSED_PER_MINUTE_MAX: u32 = 30;
/// The longest value of a field that is told, in bytes.
const VALUE_BYTES_MAX: usize = 128;
/// Who it is whom nobody knows.
const NOBODY: &str = "nobody";
/// Fields that change with every change.
const TIMES: [&str; 2] = ["created_at", "updated_at"];

/// The fields that a request changed. A handler puts them beside its answer, from where they go to the audit log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Changed(Vec<AuditChange>);

impl Changed {
    /// What differs between two states of a thing. Values are told that are plain and short, and not of the fields `hidden`.
    pub(super) fn between(before: &Map<String, Value>, after: &Map<String, Value>, hidden: &[&str]) -> Self {
        let mut fields: Vec<&String> = before.keys().chain(after.keys()).collect();
        fields.sort_unstable();
        fields.dedup();
        let absent = &Value::Null;
        let change = |field: &String| {
            let (was, is) = (before.get(field).unwrap_or(absent), after.get(field).unwrap_or(absent));
            let shown = |value: &Value| plain(value).filter(|_| !hidden.contains(&field.as_str()));
            (was != is).then(|| AuditChange { field: field.as_str().into(), before: shown(was), after: shown(is) })
        };
        Self(fields.into_iter().filter_map(change).collect())
    }

    /// The same of what answers show; their times are left out.
    pub(super) fn of<T: Serialize>(before: Option<&T>, after: &T) -> Self {
        let state = |shown: Option<&T>| match shown.map(serde_json::to_value) {
            Some(Ok(Value::Object(mut fields))) => {
                TIMES.iter().for_each(|time| drop(fields.remove(*time)));
                fields
            }
            _ => Map::new(),
        };
        Self::between(&state(before), &state(Some(after)), &[])
    }

    /// A further field, without its value.
    #[must_use]
    pub(super) fn and(mut self, field: &str) -> Self {
        self.0.push(AuditChange { field: field.into(), before: None, after: None });
        self
    }

    /// The answer, with the changes beside it.
    pub(super) fn beside(self, mut response: Response) -> Response {
        response.extensions_mut().insert(self);
        response
    }
}

/// A plain, short value as JSON.
fn plain(value: &Value) -> Option<Box<str>> {
    let is_plain = matches!(value, Value::Bool(_) | Value::Number(_) | Value::String(_));
    is_plain.then(|| value.to_string()).filter(|text| text.len() <= VALUE_BYTES_MAX).map(Into::into)
}

/// A change that is asked for.
pub(super) struct Tried {
    /// What it is called.
    pub(super) action: &'static str,
    /// The path of the thing.
    pub(super) target: String,
    /// Where it comes from.
    pub(super) from: Option<IpAddr>,
}

/// Puts changes on record.
pub(super) struct Trail {
    store: Option<Store>,
    /// The minute in which a change was last refused, and how many were in it.
    refused: Mutex<(u64, u32)>,
}

impl Trail {
    /// One that writes into that store, or only into the daemon's log.
    pub(super) fn new(store: Option<Store>) -> Self {
        Self { store, refused: Mutex::default() }
    }

    /// Puts on record what was answered to who tried a change, before it is answered: when it was made, or refused because of
    /// who asked or of what was there.
    pub(super) async fn note(&self, tried: Tried, principal: Option<&Principal>, response: &mut Response) {
        let status = response.status();
        if status.is_success() || (is_refusal(status) && self.has_room(clock::now_ms() / 60_000)) {
            self.record(record(tried, principal, response)).await;
        }
    }

    /// May one more that was refused go on record in that minute?
    fn has_room(&self, minute: u64) -> bool {
        let mut refused = self.refused.lock();
        if refused.0 != minute {
            *refused = (minute, 0);
        }
        refused.1 += 1;
        refused.1 <= AUDIT_REFUSED_PER_MINUTE_MAX
    }

    async fn record(&self, record: AuditRecord) {
        let AuditRecord { principal, action, target, status, from, .. } = &record;
        match record.code.as_deref() {
            None => info!(%principal, %action, %target, status, %from, "changed over the API"),
            Some(code) => info!(%principal, %action, %target, status, %from, code, "a change over the API is refused"),
        }
        let Some(store) = self.store.clone() else { return };
        let written = tokio::task::spawn_blocking(move || store.add_audit(&record)).await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => error!(error = %chain(&error), "a change is not in the audit log"),
            Err(error) => error!(%error, "a change is not in the audit log"),
        }
    }
}

/// Was it refused because of who asked, or of what was there? What was wrong in itself tried nothing.
fn is_refusal(status: StatusCode) -> bool {
    let refusals =
        [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::CONFLICT, StatusCode::PRECONDITION_FAILED];
    refusals.contains(&status)
}

fn record(tried: Tried, principal: Option<&Principal>, response: &mut Response) -> AuditRecord {
    let Tried { action, target, from } = tried;
    let made = response.headers().get(LOCATION).filter(|_| response.status() == StatusCode::CREATED);
    let made = made.and_then(|made| made.to_str().ok()).map(ToOwned::to_owned);
    let changes = response.extensions_mut().remove::<Changed>().unwrap_or_default();
    AuditRecord {
        at_ms: clock::now_ms(),
        principal: principal.map_or(NOBODY, Principal::name).into(),
        owner: principal.and_then(Principal::owner).map(|owner| owner.as_str().into()),
        action: action.into(),
        target: made.unwrap_or(target).into(),
        status: response.status().as_u16(),
        from: from.map_or_else(|| "unknown".to_owned(), |from| from.to_string()).into(),
        code: response.extensions().get::<Code>().map(|code| code.as_str().into()),
        changes: changes.0.into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_differs_is_named_and_only_plain_values_are_told() {
        let object = |value: Value| value.as_object().expect("an object").clone();
        let before =
            object(json!({ "a": 1, "b": "x", "c": [1], "d": true, "url": "https://a", "same": 1, "long": "" }));
        let after = object(
            json!({ "a": 2, "c": [2], "d": true, "e": null, "url": "https://b", "same": 1, "long": "y".repeat(200) }),
        );
        let Changed(changes) = Changed::between(&before, &after, &["url"]).and("secret");
        let told: Vec<_> = changes.iter().map(|c| (&*c.field, c.before.as_deref(), c.after.as_deref())).collect();
        let expected = [
            ("a", Some("1"), Some("2")),
            ("b", Some("\"x\""), None),
            ("c", None, None),
            ("long", Some("\"\""), None),
            ("url", None, None),
            ("secret", None, None),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn so_many_that_were_refused_go_on_record_in_a_minute() {
        let trail = Trail::new(None);
        let taken = |minute| (0..100).filter(|_| trail.has_room(minute)).count();
        assert_eq!((taken(1), taken(1), taken(2)), (AUDIT_REFUSED_PER_MINUTE_MAX as usize, 0, 30));
    }
}

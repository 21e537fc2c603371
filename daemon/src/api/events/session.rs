//! An event stream as its client has it: what the hub sends, for as long as it is known who listens.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt as _};
use serde_json::json;
use tokio::sync::watch;

use super::clients::Seat;
use crate::api::Principal;
use crate::api::document::BASE;
use crate::api::principal::Kind;
use crate::stream::{Client, frame};
use crate::telemetry::clock;

/// The longest wait that is asked of the timer: then the time of day is looked at anew, which may have been set.
const WAIT_MAX: Duration = Duration::from_secs(3_600);

/// How often a stream of a browser's session says that the session is in use.
const USE_INTERVAL: Duration = Duration::from_secs(60);

/// The bytes of one client.
pub(super) struct Session {
    client: Client,
    /// What is to be said of who listens; it ends when the stream is to. Without it nothing ends it: most clients of an operator's
    /// are so, and cost nothing.
    watch: Option<BoxStream<'static, Bytes>>,
    /// Its place among the clients, given back with it.
    _seat: Seat,
}

impl Session {
    pub(super) fn new(client: Client, seat: Seat) -> Self {
        let principals = seat.principals();
        let ends = principals.borrow().validity().ends();
        let watch = ends.then(|| {
            let watch = Watch { principals, client: seat.id(), notice: seat.notice(), told_ms: None };
            stream::unfold(watch, |mut watch| async move { watch.next().await.map(|bytes| (bytes, watch)) }).boxed()
        });
        Self { client, watch, _seat: seat }
    }
}

impl Stream for Session {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(watch) = &mut self.watch
            && let Poll::Ready(said) = watch.poll_next_unpin(context)
        {
            return Poll::Ready(said);
        }
        self.client.poll_next_unpin(context)
    }
}

/// Looks after how long it is known who listens.
struct Watch {
    principals: watch::Receiver<Principal>,
    client: String,
    /// How long before the end it is announced.
    notice: Duration,
    /// The end that was announced.
    told_ms: Option<u64>,
}

impl Watch {
    /// The next announcement; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let (kind, validity) = {
                let principal = self.principals.borrow_and_update();
                (principal.kind(), principal.validity().clone())
            };
            let now_ms = clock::now_ms();
            if !validity.holds(now_ms) {
                return None;
            }
            let expires_ms = validity.expires_ms;
            let notice_ms = u64::try_from(self.notice.as_millis()).unwrap_or(u64::MAX);
            let untold_ms = expires_ms.filter(|expires_ms| self.told_ms != Some(*expires_ms));
            let due_ms = match untold_ms {
                Some(expires_ms) if expires_ms.saturating_sub(notice_ms) <= now_ms => {
                    self.told_ms = Some(expires_ms);
                    return Some(self.announcement(kind, expires_ms));
                }
                Some(expires_ms) => Some(expires_ms.saturating_sub(notice_ms)),
                None => expires_ms,
            };
            let mut wait = due_ms.map_or(WAIT_MAX, |due_ms| Duration::from_millis(due_ms - now_ms).min(WAIT_MAX));
            if let Some(session) = &validity.session {
                session.used_ms.store(now_ms, Ordering::Relaxed);
                wait = wait.min(USE_INTERVAL);
            }
            tokio::select! {
                () = validity.taken_back() => return None,
                changed = self.principals.changed() => changed.ok()?,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn announcement(&self, kind: Kind, expires_ms: u64) -> Bytes {
        let renew = (kind == Kind::Token).then(|| format!("{BASE}/events/clients/{}/token", self.client));
        let data = json!({ "client": self.client, "expires_at": clock::rfc3339(expires_ms), "renew": renew });
        frame::announcement(frame::TOKEN_EXPIRING, &data)
    }
}

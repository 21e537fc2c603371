//! `[dead_letters]`: where dead letters are published.

use super::places::KeyPath;
use super::report::Report;
use super::{DeadLetterSubject, DeadLetters, Stream, raw};
use crate::domain::{Pattern, Subject, SubscriptionId};

/// What a subscription's name takes the place of.
const NAME: &str = "{subscription}";

/// Checks `[dead_letters]` against the streams that the daemon reads itself.
pub(super) fn dead_letters(
    raw: raw::DeadLetters,
    streams: Option<&[Stream]>,
    report: &mut Report<'_>,
) -> Option<DeadLetters> {
    let Some(text) = raw.publish_subject else { return Some(DeadLetters { publish_subject: None }) };
    let at = KeyPath::top("dead_letters").key("publish_subject");
    let subject = report.check(&at, parse(&text))?;
    let all = subject.pattern();
    let own = streams.unwrap_or_default().iter().find(|s| s.subjects.iter().any(|own| own.overlaps(&all)));
    if let Some(stream) = own {
        let reason = format!(
            "overlaps the subjects of stream {}, which the daemon reads: its dead letters would come back as events",
            stream.name
        );
        report.problem(&at, reason);
        return None;
    }
    Some(DeadLetters { publish_subject: Some(subject) })
}

fn parse(text: &str) -> Result<DeadLetterSubject, String> {
    let head = text.strip_suffix(NAME);
    let before = head.unwrap_or(text);
    let sample = if head.is_some() { format!("{before}name") } else { text.to_owned() };
    let whole = head.is_none_or(|head| head.ends_with('.'));
    if before.contains(['{', '}']) || !whole || Subject::parse(&sample).is_err() {
        return Err(format!(
            "{text:?} must be a subject without wildcards, such as \"dlq.{NAME}\"; {NAME} may only be its last token, \
             since names can have dots"
        ));
    }
    Ok(DeadLetterSubject { before: before.into(), named: head.is_some() })
}

impl DeadLetterSubject {
    /// The subject of a subscription's dead letters.
    ///
    /// # Errors
    /// When it is too long for a subject.
    pub fn of(&self, subscription: &SubscriptionId) -> Result<Subject, crate::domain::subject::Error> {
        let name = if self.named { subscription.as_str() } else { "" };
        Subject::parse(&format!("{}{name}", self.before))
    }

    /// What matches the subjects of all subscriptions.
    fn pattern(&self) -> Pattern {
        let rest = if self.named { ">" } else { "" };
        Pattern::parse(&format!("{}{rest}", self.before)).expect("its beginning was parsed with a name after it")
    }
}

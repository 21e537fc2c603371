//! Cursors: where a listing goes on, as an opaque text that belongs to the question it was an answer to.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use super::Problem;

/// The longest cursor that is read, in bytes.
const CURSOR_BYTES_MAX: usize = 8_192;
/// How much of the question's digest a cursor holds.
const DIGEST_BYTES: usize = 8;

/// A question: the kind of listing with everything that decides what is on it and in which order. A cursor is good for the
/// question that it was made for, and for no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Question([u8; DIGEST_BYTES]);

impl Question {
    /// The question with those parts; their order counts.
    pub(super) fn of(parts: &[&str]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let mut digest = [0; DIGEST_BYTES];
        digest.copy_from_slice(&hash.finalize()[..DIGEST_BYTES]);
        Self(digest)
    }

    /// The cursor for a place.
    pub(super) fn cursor(self, place: &str) -> String {
        URL_SAFE_NO_PAD.encode([&self.0[..], place.as_bytes()].concat())
    }

    /// The place of a cursor, when it was made for this question.
    pub(super) fn place(self, cursor: &str) -> Result<String, Problem> {
        let read = || {
            let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
            let place = bytes.strip_prefix(&self.0)?;
            String::from_utf8(place.to_vec()).ok()
        };
        let known = (cursor.len() <= CURSOR_BYTES_MAX).then(read).flatten();
        known.ok_or_else(wrong)
    }
}

/// The problem with a text that is no cursor of this question.
pub(super) fn wrong() -> Problem {
    Problem::invalid(
        "cursor",
        "`cursor` is not one of this listing: take it from the `next` of a page, with the same filters",
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cursor_leads_back_to_its_place_and_is_good_for_its_own_question_only(
            place in ".{0,80}", one in proptest::collection::vec(".{0,8}", 0..4), other in proptest::collection::vec(".{0,8}", 0..4),
        ) {
            let of = |parts: &[String]| Question::of(&parts.iter().map(String::as_str).collect::<Vec<_>>());
            let cursor = of(&one).cursor(&place);
            prop_assert!(cursor.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
            prop_assert_eq!(of(&one).place(&cursor).expect("its own"), place);
            prop_assert_eq!(of(&other).place(&cursor).is_ok(), one == other);
        }

        #[test]
        fn any_other_text_is_refused_and_never_a_panic(text in ".{0,40}") {
            prop_assert!(Question::of(&["x"]).place(&text).is_err());
        }
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(Question::of(&["ab", "c"]), Question::of(&["a", "bc"]));
        assert!(Question::of(&[]).place(&"A".repeat(CURSOR_BYTES_MAX + 1)).is_err());
    }
}

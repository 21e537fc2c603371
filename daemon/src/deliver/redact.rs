//! What a receiver was sent in confidence, and taking it out of what it says: many repeat what they were sent.

use http::HeaderMap;
use http::header::HeaderValue;
use url::Url;

/// The shortest value that is taken out, in bytes: shorter ones are flags and names, and would blot out harmless text.
const VALUE_BYTES_MIN: usize = 6;
/// The shortest part of a URL's path that is taken for a credential, in bytes.
const SEGMENT_BYTES_MIN: usize = 16;
/// What stands in the place of a value.
const MASK: &str = "…";

/// The values of an endpoint's own headers and what its URL holds of credentials: the query, and long parts of the path.
pub(super) struct Confidential(Vec<Box<[u8]>>);

impl Confidential {
    pub(super) fn new(url: &Url, headers: &HeaderMap) -> Self {
        let of_headers = headers.values().map(HeaderValue::as_bytes).flat_map(|value| {
            // What follows `Bearer` and the like is the secret, also without that word.
            let rest = value.iter().position(|byte| *byte == b' ').map(|at| &value[at + 1..]);
            std::iter::once(value).chain(rest)
        });
        let segments = url.path_segments().into_iter().flatten().map(str::as_bytes);
        let segments = segments.filter(|segment| segment.len() >= SEGMENT_BYTES_MIN);
        let values = of_headers.chain(url.query().map(str::as_bytes)).chain(segments);
        let mut values: Vec<Box<[u8]>> = values.filter(|v| v.len() >= VALUE_BYTES_MIN).map(Into::into).collect();
        // The longest first: one may be a part of another.
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        Self(values)
    }

    /// `said` with every such value made unreadable.
    pub(super) fn redacted(&self, mut said: Vec<u8>) -> Vec<u8> {
        for value in &self.0 {
            if find(&said, value).is_some() {
                said = replaced(&said, value);
            }
        }
        said
    }

    /// The length in bytes of the longest value: how much more must be seen to find one that begins within a part.
    pub(super) fn bytes_max(&self) -> usize {
        self.0.first().map_or(0, |value| value.len())
    }
}

fn find(text: &[u8], value: &[u8]) -> Option<usize> {
    text.windows(value.len()).position(|window| window == value)
}

fn replaced(text: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = find(rest, value) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(MASK.as_bytes());
        rest = &rest[at + value.len()..];
    }
    out.extend_from_slice(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_out_what_was_sent_in_confidence_and_nothing_else() {
        let url: Url = "https://a.example/hooks/0123456789abcdef?key=hush12".parse().expect("a URL");
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_static("Bearer abc-defg"));
        headers.insert("x-flag", HeaderValue::from_static("on"));
        let confidential = Confidential::new(&url, &headers);
        let redacted = |said: &str| String::from_utf8(confidential.redacted(said.into())).expect("text");
        assert_eq!(redacted("got Bearer abc-defg on"), "got … on");
        assert_eq!(redacted("abc-defg, abc-defg"), "…, …");
        assert_eq!(redacted("cannot POST /hooks/0123456789abcdef?key=hush12"), "cannot POST /hooks/…?…");
        assert_eq!(redacted("no such hook"), "no such hook");
        assert_eq!(confidential.redacted(vec![0xff, 0]), [0xff, 0]);
        assert_eq!(confidential.bytes_max(), 16);
    }
}

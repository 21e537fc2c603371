//! JSON pointers as a tree, which the rewriting walks along with the payload.

use std::collections::BTreeMap;

use sluiced_sdk::Error;

/// A step on the way to redacted places.
#[derive(Debug, Default)]
pub(crate) struct Node {
    redacted: bool,
    named: BTreeMap<String, Node>,
    any: Option<Box<Node>>,
}

/// The steps that stand at one place of the payload: more than one where `*` and a name both lead there.
type Nodes<'a> = Vec<&'a Node>;

impl Node {
    /// Adds a pointer.
    ///
    /// # Errors
    /// It is not a JSON pointer, or it points at the whole payload.
    pub(crate) fn insert(&mut self, pointer: &str) -> Result<(), Error> {
        if pointer.is_empty() {
            return Err(Error::new("\"\" points at the whole payload: name a place in it, for example \"/card\""));
        }
        let Some(tokens) = pointer.strip_prefix('/') else {
            return Err(Error::new(format!("{pointer:?} is not a JSON pointer: it must begin with /")));
        };
        let mut node = self;
        for token in tokens.split('/') {
            node = match token {
                "*" => node.any.get_or_insert_default(),
                token => node.named.entry(unescape(pointer, token)?).or_default(),
            };
        }
        node.redacted = true;
        Ok(())
    }
}

/// Where a key or an index leads from here.
pub(crate) enum Step<'a> {
    /// Nothing below is redacted.
    Copy,
    /// This is redacted.
    Redact,
    /// Something below may be.
    Into(Nodes<'a>),
}

/// Takes a step by this key, or by this index written in decimal.
pub(crate) fn step<'a>(nodes: &[&'a Node], key: &str) -> Step<'a> {
    let mut next = Nodes::new(); // Does not allocate as long as it is empty, which is the common case.
    for node in nodes {
        next.extend(node.named.get(key));
        next.extend(node.any.as_deref());
    }
    if next.is_empty() {
        Step::Copy
    } else if next.iter().any(|node| node.redacted) {
        Step::Redact
    } else {
        Step::Into(next)
    }
}

/// `~1` is `/` and `~0` is `~`.
fn unescape(pointer: &str, token: &str) -> Result<String, Error> {
    let mut name = String::with_capacity(token.len());
    let mut chars = token.chars();
    while let Some(c) = chars.next() {
        name.push(match c {
            '~' => match chars.next() {
                Some('0') => '~',
                Some('1') => '/',
                _ => {
                    return Err(Error::new(format!(
                        "{pointer:?} is not a JSON pointer: ~ must be written ~0, and / within a name ~1"
                    )));
                }
            },
            c => c,
        });
    }
    Ok(name)
}

//! Reads JSON into jaq's values.
//!
//! jaq has a reader of its own. This one is strict (no comments, no NaN, no byte strings), bounds the nesting, so that a
//! hostile payload is an error and not a full stack, and is about twice as quick: texts without escapes are slices of the
//! one payload instead of three allocations each, and objects and arrays are allocated once, at their size.

use std::fmt;

use bytes::Bytes;
use jaq_json::{Map, Num, Rc, Val};

/// How deep arrays and objects may be nested.
const DEPTH_MAX: usize = 128;

/// What is wrong, and at which byte.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Error {
    offset: usize,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Expected(&'static str),
    BadText,
    NotUtf8,
    TooDeep,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Expected(what) => write!(f, "expected {what}")?,
            Kind::BadText => f.write_str("a text with a bad escape or a control character")?,
            Kind::NotUtf8 => f.write_str("not UTF-8")?,
            Kind::TooDeep => write!(f, "nested more than {DEPTH_MAX} deep")?,
        }
        write!(f, " at byte {}", self.offset)
    }
}

impl std::error::Error for Error {}

/// Reads exactly one JSON value.
///
/// # Errors
/// It is not JSON, not UTF-8, or nested too deep.
pub(crate) fn json(data: &[u8]) -> Result<Val, Error> {
    if let Err(error) = str::from_utf8(data) {
        return Err(Error { offset: error.valid_up_to(), kind: Kind::NotUtf8 });
    }
    let data = Bytes::copy_from_slice(data);
    let mut reader = Reader { data: &data, at: 0, depth: 0, fields: Vec::new(), items: Vec::new() };
    let value = reader.value()?;
    match reader.peek() {
        None => Ok(value),
        Some(_) => Err(reader.expected("nothing more")),
    }
}

struct Reader<'a> {
    data: &'a Bytes,
    at: usize,
    depth: usize,
    /// The fields of all objects that are open, the innermost last.
    fields: Vec<(Val, Val)>,
    /// The items of all arrays that are open, the innermost last.
    items: Vec<Val>,
}

impl Reader<'_> {
    fn value(&mut self) -> Result<Val, Error> {
        match self.peek() {
            Some(b'"') => self.text(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b't') => self.literal("true", Val::Bool(true)),
            Some(b'f') => self.literal("false", Val::Bool(false)),
            Some(b'n') => self.literal("null", Val::Null),
            _ => Err(self.expected("a value")),
        }
    }

    fn nested(&mut self, read: fn(&mut Self) -> Result<Val, Error>) -> Result<Val, Error> {
        if self.depth == DEPTH_MAX {
            return Err(self.error(Kind::TooDeep));
        }
        self.depth += 1;
        self.at += 1;
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn object(&mut self) -> Result<Val, Error> {
        let first = self.fields.len();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Val::obj(Map::default()));
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.expected("a key in quotes"));
            }
            let key = self.text()?;
            if self.peek() != Some(b':') {
                return Err(self.expected("`:`"));
            }
            self.at += 1;
            let value = self.value()?;
            self.fields.push((key, value));
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err(self.expected("`,` or `}`")),
            }
        }
        self.at += 1;
        // Of a repeated key the last value stays, as everywhere.
        Ok(Val::obj(self.fields.drain(first..).collect()))
    }

    fn array(&mut self) -> Result<Val, Error> {
        let first = self.items.len();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Val::Arr(Rc::default()));
        }
        loop {
            let item = self.value()?;
            self.items.push(item);
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return Err(self.expected("`,` or `]`")),
            }
        }
        self.at += 1;
        Ok(self.items.drain(first..).collect())
    }

    /// Reads the text that begins here.
    fn text(&mut self) -> Result<Val, Error> {
        let begin = self.at;
        let mut escaped = false;
        self.at += 1;
        loop {
            self.at += plain_bytes(self.data.get(self.at..).unwrap_or_default());
            match self.data.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.at += 2;
                }
                Some(_) => return Err(self.error(Kind::BadText)),
                None => return Err(self.expected("`\"`")),
            }
        }
        self.at += 1;
        if !escaped {
            return Ok(Val::utf8_str(self.data.slice(begin + 1..self.at - 1)));
        }
        match serde_json::from_slice::<String>(&self.data[begin..self.at]) {
            Ok(text) => Ok(Val::utf8_str(text.into_bytes())),
            Err(_) => Err(Error { offset: begin, kind: Kind::BadText }),
        }
    }

    fn number(&mut self) -> Result<Val, Error> {
        let begin = self.at;
        self.at += usize::from(self.data[begin] == b'-');
        match self.data.get(self.at) {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits()?,
            _ => return Err(self.expected("a digit")),
        }
        let end_of_whole = self.at;
        if self.data.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.data.get(self.at) {
            self.at += 1;
            self.at += usize::from(matches!(self.data.get(self.at), Some(b'+' | b'-')));
            self.digits()?;
        }
        let number =
            str::from_utf8(&self.data[begin..self.at]).expect("the digits, signs and dots just read are ASCII");
        let whole = if self.at == end_of_whole { Num::from_str_radix(number, 10) } else { None };
        // jaq keeps the digits of a decimal number until it must calculate with it.
        Ok(Val::Num(whole.unwrap_or_else(|| Num::Dec(Rc::new(number.to_owned())))))
    }

    fn digits(&mut self) -> Result<(), Error> {
        let begin = self.at;
        while let Some(b'0'..=b'9') = self.data.get(self.at) {
            self.at += 1;
        }
        if self.at == begin { Err(self.expected("a digit")) } else { Ok(()) }
    }

    fn literal(&mut self, word: &'static str, value: Val) -> Result<Val, Error> {
        if !self.data[self.at..].starts_with(word.as_bytes()) {
            return Err(self.expected("a value"));
        }
        self.at += word.len();
        Ok(value)
    }

    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.data.get(self.at) {
            self.at += 1;
        }
        self.data.get(self.at).copied()
    }

    fn expected(&self, what: &'static str) -> Error {
        self.error(Kind::Expected(what))
    }

    fn error(&self, kind: Kind) -> Error {
        Error { offset: self.at, kind }
    }
}

/// How many bytes stand before the first quote, backslash or control character. Most of a payload is the inside of texts, so
/// eight bytes are looked at together: below, a byte's highest bit says that it is one of them. A borrow may set that of a
/// later byte too, but never that of the first.
fn plain_bytes(data: &[u8]) -> usize {
    const EACH: u64 = u64::from_le_bytes([1; 8]);
    const HIGHEST: u64 = EACH << 7;
    let (eights, rest) = data.as_chunks::<8>();
    for (at, eight) in eights.iter().enumerate() {
        let word = u64::from_le_bytes(*eight);
        let below = |word: u64, least: u64| word.wrapping_sub(EACH * least) & !word & HIGHEST;
        let is = |byte: u8| below(word ^ (EACH * u64::from(byte)), 1);
        let found = below(word, 0x20) | is(b'"') | is(b'\\');
        if found != 0 {
            return at * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let last = rest.iter().position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\');
    data.len() - rest.len() + last.unwrap_or(rest.len())
}

#[cfg(test)]
mod tests;

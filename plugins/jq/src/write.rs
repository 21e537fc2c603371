//! Writes jaq's values as strict JSON. jaq's own writer makes a superset of JSON (NaN, byte strings, keys that are not
//! strings), which a receiver could not read, and formats token by token, which is slower.

use std::io::Write as _;

use jaq_json::{Num, Val};
use sluiced_sdk::Error;

/// Appends a value as compact JSON.
///
/// # Errors
/// The value holds byte strings, or an object key that is not a string: JSON has neither.
pub(crate) fn json(out: &mut Vec<u8>, value: &Val) -> Result<(), Error> {
    match value {
        Val::Null => out.extend_from_slice(b"null"),
        Val::Bool(true) => out.extend_from_slice(b"true"),
        Val::Bool(false) => out.extend_from_slice(b"false"),
        Val::Num(number) => num(out, number)?,
        Val::TStr(text) => string(out, text)?,
        Val::BStr(_) => return Err(Error::new("the expression gave a byte string, which JSON does not have")),
        Val::Arr(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                json(out, item)?;
            }
            out.push(b']');
        }
        Val::Obj(fields) => {
            out.push(b'{');
            for (i, (key, field)) in fields.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                let Val::TStr(key) = key else {
                    return Err(Error::new(format!("the expression gave the object key {key}, which is not a string")));
                };
                string(out, key)?;
                out.push(b':');
                json(out, field)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

fn num(out: &mut Vec<u8>, number: &Num) -> Result<(), Error> {
    match number {
        // As jq has it: not-a-number is null, and infinity the largest number.
        Num::Float(x) if x.is_nan() => out.extend_from_slice(b"null"),
        Num::Float(x) if x.is_infinite() => write!(out, "{:?}", f64::MAX.copysign(*x))?,
        // 3.0 is written 3, as jq does.
        #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and within the range that is exact")]
        Num::Float(x) if x.fract() == 0.0 && x.abs() < WHOLE_MAX => write!(out, "{}", *x as i64)?,
        // Digits as they stood in the payload or in the expression.
        Num::Dec(digits) => dec(out, digits)?,
        other => write!(out, "{other}")?,
    }
    Ok(())
}

/// The digits may come from `fromjson` or from the expression, where jaq lets a plus sign and leading zeros pass.
fn dec(out: &mut Vec<u8>, digits: &str) -> Result<(), Error> {
    let unsigned = digits.strip_prefix('-').unwrap_or(digits);
    match unsigned.as_bytes() {
        [b'0'] | [b'0', b'.' | b'e' | b'E', ..] | [b'1'..=b'9', ..] => out.extend_from_slice(digits.as_bytes()),
        _ => num(out, &Num::from_dec_str(digits))?,
    }
    Ok(())
}

/// Beyond it not every whole number is a float.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// Text is bytes to jaq, and may hold what is not UTF-8; that becomes the replacement character.
fn string(out: &mut Vec<u8>, text: &[u8]) -> Result<(), Error> {
    Ok(serde_json::to_writer(out, &*String::from_utf8_lossy(text))?)
}

//! Sample events: JSON bodies of a kilobyte that carry a running number.

use bytes::Bytes;
use serde_json::{Value, json};

/// The signing secret that tests give to their webhooks: 32 bytes.
pub const SECRET: &str = "whsec_c2x1aWNlZC10ZXN0LXNlY3JldC0wMTIzNDU2Nzg5YWI=";

/// Size of a body of [`order`].
pub const BODY_BYTES: usize = 1024;

/// The body of order `number`: exactly [`BODY_BYTES`], with an amount (the number itself), a card number to redact and a
/// nested list.
pub fn order(number: u64) -> Bytes {
    let mut order = json!({
        "number": number,
        "amount": number,
        "card": { "number": "4111111111111111", "holder": "A. Tester" },
        "items": [{ "sku": "A-1", "count": 2 }, { "sku": "B-2", "count": 1 }],
        "note": "",
    });
    let rest = BODY_BYTES.saturating_sub(order.to_string().len());
    order["note"] = Value::String("x".repeat(rest));
    Bytes::from(order.to_string())
}

/// The number that a body of [`order`] carries, also after a transform that left it in place.
pub fn number_of(body: &[u8]) -> Option<u64> {
    serde_json::from_slice::<Value>(body).ok()?.get("number")?.as_u64()
}

//! `sluiced secret`: a new signing secret.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::write_out;

/// How many random bytes a new secret has; Standard Webhooks asks for 24 to 64.
const SECRET_BYTES: usize = 32;

/// Prints `whsec_` and the base64 text of random bytes from a cryptographic generator.
///
/// # Errors
/// When standard output is closed.
pub fn run() -> anyhow::Result<()> {
    let bytes: [u8; SECRET_BYTES] = rand::random();
    write_out(&format!("whsec_{}\n", STANDARD.encode(bytes)))
}

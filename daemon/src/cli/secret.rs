//! `sluiced secret`: a new signing secret, or a new pair of keys.

use clap::Args;

use super::write_out;
use crate::deliver::{ed25519, signing};

/// What to make.
#[derive(Debug, Args)]
pub struct SecretArgs {
    /// Make an ed25519 key pair in place of a secret: the private key (whsk_) for `ed25519_key` of the webhook, the public
    /// one (whpk_) for its receiver.
    #[arg(long)]
    ed25519: bool,
}

/// Prints a secret: `whsec_` and the base64 text of random bytes from a cryptographic generator. Or a private key and, in
/// a second line, its public half.
///
/// # Errors
/// When standard output is closed.
pub fn run(args: &SecretArgs) -> anyhow::Result<()> {
    if args.ed25519 {
        let (key, private) = ed25519::generate();
        let public = ed25519::PublicKey::of(&key).text();
        return write_out(&format!("{private}\n{public}\n"));
    }
    write_out(&format!("{}\n", signing::generate().1))
}

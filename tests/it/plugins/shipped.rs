//! What was made for a contract that was ever shipped keeps working: components of `shipped/VERSION/`, built when that
//! version was current and never again, with the fixtures that they passed then.

use std::io::Read as _;
use std::path::Path;

use flate2::read::GzDecoder;
use sha2::{Digest as _, Sha256};
use sluiced_tests::paths::workspace;

use super::fixtures::run_in;
use super::*;

/// Every version of the contract, and the SHA-256 of its text: a version is never edited, the next one is another file.
const SHIPPED: [(&str, &str, &str); 1] =
    [("1.0.0", "sdk/wit/plugin.wit", "27434c9d334d42b5ea9b84277ee723819ed957b7cff54ac576e2f3cdd7632ce4")];

#[test]
fn a_contract_that_was_shipped_is_never_edited() {
    for (version, file, digest) in SHIPPED {
        let text = fs::read(workspace().join(file)).expect("the contract can be read");
        let now = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(
            now, digest,
            "{file} is sluiced:plugin@{version}, which plugins were built for: add a version instead"
        );
    }
}

#[test]
fn a_component_for_a_contract_that_was_shipped_passes_its_fixtures() {
    for (version, ..) in SHIPPED {
        let folder = workspace().join("tests/it/plugins/shipped").join(version);
        let mut ran = 0;
        for entry in fs::read_dir(&folder).expect("the folder of that version can be listed") {
            let packed = entry.expect("the folder of that version can be listed").path();
            if packed.extension().is_some_and(|extension| extension == "gz") {
                run_in(&unpacked(&packed).path().join("shipped.wasm"), &folder.join("fixtures"));
                ran += 1;
            }
        }
        assert!(ran > 0, "no component in {}", folder.display());
    }
}

/// The component in a folder of its own.
fn unpacked(packed: &Path) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut component = Vec::new();
    let file = fs::File::open(packed).expect("a component can be read");
    GzDecoder::new(file).read_to_end(&mut component).expect("it is packed with gzip");
    fs::write(dir.path().join("shipped.wasm"), component).expect("written");
    dir
}

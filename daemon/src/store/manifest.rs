//! A backup's manifest: a few lines of text that say what a whole backup has, and end with their own checksum.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use sha2::{Digest as _, Sha256};

/// The layout of backups that this version writes, and the newest that it reads.
pub(super) const VERSION: u32 = 1;
/// The name of the file.
const FILE: &str = "manifest";

/// What a backup has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Manifest {
    /// The layout of the backup.
    pub(super) version: u32,
    /// The format of the store that it was taken of.
    pub(super) format: u32,
    /// When it was taken, in milliseconds since the Unix epoch.
    pub(super) taken_ms: u64,
    /// The last flush in it.
    pub(super) flush: u64,
    /// Lines of the list.
    pub(super) entries: u64,
    /// The length of the list in bytes.
    pub(super) data_bytes: u64,
    /// The list's checksum.
    pub(super) data_sha256: [u8; 32],
    /// Bodies in files.
    pub(super) bodies: u64,
}

impl Manifest {
    fn text(&self) -> String {
        let Self { version, format, taken_ms, flush, entries, data_bytes, data_sha256, bodies } = self;
        let digest = hex::encode(data_sha256);
        let mut text = format!(
            "sluiced-backup {version}\nformat {format}\ntaken_ms {taken_ms}\nflush {flush}\nentries {entries}\n\
             data_bytes {data_bytes}\ndata_sha256 {digest}\nbodies {bodies}\n"
        );
        let own = hex::encode(Sha256::digest(text.as_bytes()));
        writeln!(text, "sha256 {own}").expect("a text can be written to");
        text
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        const CUT: &str = "its manifest is cut short or damaged";
        let (lines, last) = text.trim_end().rsplit_once('\n').ok_or(CUT)?;
        let version: u32 = lines
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("sluiced-backup "))
            .ok_or(CUT)?
            .parse()
            .map_err(|_| CUT)?;
        if version > VERSION {
            return Err("it was made by a newer version of sluiced");
        }
        let own = hex::encode(Sha256::digest(format!("{lines}\n").as_bytes()));
        if last.strip_prefix("sha256 ") != Some(own.as_str()) {
            return Err(CUT);
        }
        let value = |name: &str| {
            lines.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).ok_or("its manifest lacks a line")
        };
        let number = |name: &str| value(name)?.parse::<u64>().map_err(|_| CUT);
        let mut data_sha256 = [0; 32];
        hex::decode_to_slice(value("data_sha256")?, &mut data_sha256).map_err(|_| CUT)?;
        Ok(Self {
            version,
            format: u32::try_from(number("format")?).map_err(|_| CUT)?,
            taken_ms: number("taken_ms")?,
            flush: number("flush")?,
            entries: number("entries")?,
            data_bytes: number("data_bytes")?,
            data_sha256,
            bodies: number("bodies")?,
        })
    }

    /// Writes it as the last file of a backup, durably: from then on the backup is whole.
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        let new = dir.join("manifest.new");
        let mut file = File::create(&new)?;
        file.write_all(self.text().as_bytes())?;
        file.sync_all()?;
        fs::rename(new, dir.join(FILE))?;
        File::open(dir)?.sync_all()?;
        let above = dir.parent().filter(|above| !above.as_os_str().is_empty());
        File::open(above.unwrap_or_else(|| Path::new(".")))?.sync_all()
    }

    /// Reads the manifest of a backup.
    pub(super) fn read(dir: &Path) -> Result<Self, String> {
        let text =
            fs::read_to_string(dir.join(FILE)).map_err(|error| format!("its manifest cannot be read: {error}"))?;
        Self::parse(&text).map_err(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: Manifest = Manifest {
        version: 1,
        format: 2,
        taken_ms: 1_700_000_000_000,
        flush: 7,
        entries: 42,
        data_bytes: 4_096,
        data_sha256: [0xab; 32],
        bodies: 3,
    };

    #[test]
    fn version_1_has_this_text() {
        let digest = "ab".repeat(32);
        let lines = format!(
            "sluiced-backup 1\nformat 2\ntaken_ms 1700000000000\nflush 7\nentries 42\ndata_bytes 4096\n\
             data_sha256 {digest}\nbodies 3\n"
        );
        let own = hex::encode(Sha256::digest(lines.as_bytes()));
        assert_eq!(SAMPLE.text(), format!("{lines}sha256 {own}\n"));
        assert_eq!(Manifest::parse(&SAMPLE.text()), Ok(SAMPLE));
    }

    #[test]
    fn a_changed_or_cut_manifest_is_none() {
        let text = SAMPLE.text();
        for end in 0..text.len() - 1 {
            assert!(Manifest::parse(&text[..end]).is_err(), "cut at {end}");
        }
        for at in 0..text.len() - 1 {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'1' { b'2' } else { b'1' };
            let changed = String::from_utf8(changed).expect("ascii");
            assert!(changed == text || Manifest::parse(&changed).is_err(), "changed at {at}");
        }
        assert!(
            Manifest::parse(&text.replace("sluiced-backup 1", "sluiced-backup 2")).is_err_and(|e| e.contains("newer"))
        );
    }
}

//! A shell that walks a page: its blocks of commands, one after the other, in a folder of its own.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use regex::Regex;
use rustix::process::{Pid, Signal, kill_process_group};
use sluiced_tests::paths::{
    author_cache, nats_server_binary, plugin_cache, plugin_dir, sluiced_binary, target, workspace,
};
use sluiced_tests::wait::comes_true;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::pages::{Block, Page};

/// How long the commands of one block may take: one builds a plugin.
const BLOCK: Duration = Duration::from_secs(240);
/// How long a look is repeated until it shows what the page says.
const SHOWN: Duration = Duration::from_secs(60);

/// What a program is on the walker's path: the daemon's commands that do not end by themselves end after a while, where the
/// walk says so, and an answer that is an error fails the command.
const SLUICED: &str = r#"#!/bin/sh
case "$WALK_ENDLESS_S$1" in
    [0-9]*tail | [0-9]*listen | [0-9]*run) ;;
    *) exec "$WALK_SLUICED" "$@" ;;
esac
timeout "$WALK_ENDLESS_S" "$WALK_SLUICED" "$@"
code=$?
[ $code = 124 ] && exit 0
exit $code
"#;
const CURL: &str = r#"#!/bin/sh
PATH=$WALK_PATH
for arg in "$@"; do
    # It fails by itself, and the two ways do not go together.
    [ "$arg" = -sf ] && exec curl "$@"
    if [ "$arg" = -N ]; then
        curl --max-time 3 --fail-with-body "$@"
        code=$?
        [ $code = 28 ] && exit 0
        exit $code
    fi
done
exec curl --fail-with-body "$@"
"#;

/// A walk that is under way. Whatever it has started ends with it.
pub(super) struct Walk {
    shell: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    pub(super) dir: TempDir,
    /// What stands in the page, and what is walked in its place.
    replaced: Vec<(&'static str, String)>,
    blocks: usize,
}

impl Drop for Walk {
    fn drop(&mut self) {
        if let Some(pid) = self.shell.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            // What has ended already needs no signal.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Walk {
    /// A shell in an empty folder, where `sluiced`, `nats-server` and `curl` are found.
    pub(super) async fn start(env: &[(&str, &str)], replaced: &[(&'static str, &str)]) -> Self {
        let dir = tempfile::Builder::new().prefix("sluiced-walk-").tempdir().expect("a folder");
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).expect("a folder can be made");
        program(&bin.join("sluiced"), SLUICED);
        program(&bin.join("curl"), CURL);
        symlink(nats_server_binary(), bin.join("nats-server")).expect("a link can be made");
        let path = std::env::var("PATH").expect("there is a path");
        let home = dir.path().join("home");
        fs::create_dir(&home).expect("a folder can be made");
        let mut command = Command::new("bash");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"SLUICED_")) {
            command.env_remove(name);
        }
        command.args(["--norc", "--noprofile"]).current_dir(&home).process_group(0).kill_on_drop(true);
        command.env("PATH", format!("{}:{path}", bin.display())).env("WALK_PATH", &path);
        command.env("WALK_SLUICED", sluiced_binary()).env("PLUGIN_CACHE", plugin_cache()).env("PLUGINS", plugin_dir());
        command.env("WORKSPACE", workspace()).env("SLUICED_SDK", workspace().join("sdk"));
        command.env("SLUICED_CACHE_DIR", author_cache()).env("CARGO_TARGET_DIR", target().join("author/cargo"));
        command.envs(env.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = command.spawn().expect("bash can be started");
        let stdin = shell.stdin.take().expect("it is piped");
        let lines = BufReader::new(shell.stdout.take().expect("it is piped")).lines();
        let replaced = replaced.iter().map(|(from, to)| (*from, (*to).to_owned())).collect();
        let mut walk = Self { shell, stdin, lines, dir, replaced, blocks: 0 };
        walk.run("exec 2>&1\nset -o pipefail -o errtrace\ntrap 'echo \"@@failed: $BASH_COMMAND\"' ERR").await;
        walk
    }

    /// Runs commands to their end, and gives what they printed.
    ///
    /// # Panics
    /// When one fails.
    pub(super) async fn run(&mut self, commands: &str) -> String {
        self.blocks += 1;
        let file = self.dir.path().join(format!("block-{}.sh", self.blocks));
        fs::write(&file, commands).expect("it can be written");
        // Its own input is what the shell is told next: no command may read that.
        let line = format!(". {} < /dev/null; printf '\\n@@end\\n'\n", file.display());
        self.stdin.write_all(line.as_bytes()).await.expect("the shell runs");
        let mut out = String::new();
        let ended = async {
            while let Some(line) = self.lines.next_line().await.expect("text") {
                if line == "@@end" {
                    return;
                }
                out += &line;
                out.push('\n');
            }
            panic!("the shell has ended");
        };
        let in_time = tokio::time::timeout(BLOCK, ended).await.is_ok();
        assert!(in_time && !out.contains("@@failed: "), "{commands}\nprinted\n{out}\n{}", self.logs());
        out
    }

    /// Walks every block of commands of a page but those that `left_out` names by their line, and compares what they print with the
    /// block of text that follows. `before` are commands that a page leaves to its reader, each before the block of that number.
    pub(super) async fn page(&mut self, page: &Page, left_out: &[usize], before: &[(usize, &str)]) {
        for (from, _) in &self.replaced {
            let is_there = page.blocks.iter().any(|block| block.text.contains(from));
            assert!(is_there, "{}: {from:?} stands in no block any more", page.path);
        }
        let is_walked = |block: &Block| block.language == "sh" && !left_out.contains(&block.line);
        for (number, at) in (0..page.blocks.len()).filter(|at| is_walked(&page.blocks[*at])).enumerate() {
            if let Some((_, commands)) = before.iter().find(|(before, _)| *before == number) {
                self.run(commands).await;
            }
            let expected = page.blocks.get(at + 1).filter(|next| next.follows && next.language == "text");
            let commands =
                self.replaced.iter().fold(page.blocks[at].text.clone(), |text, (from, to)| text.replace(from, to));
            self.block(page, &page.blocks[at], &commands, expected).await;
        }
    }

    async fn block(&mut self, page: &Page, block: &Block, commands: &str, expected: Option<&Block>) {
        let mut printed = self.run(commands).await;
        let Some(expected) = expected else { return };
        let expected = self.replaced.iter().fold(expected.text.clone(), |text, (from, to)| text.replace(from, to));
        let pattern = pattern(&expected);
        let shown = comes_true(SHOWN, async || {
            let is_shown = pattern.is_match(&squeezed(&printed));
            if !is_shown && is_look(commands) {
                printed = self.run(commands).await;
            }
            is_shown || !is_look(commands)
        });
        shown.await;
        let place = format!("{}:{}", page.path, block.line);
        assert!(
            pattern.is_match(&squeezed(&printed)),
            "{place}: {commands}\nprinted\n{printed}\nand not\n{expected}\n{}",
            self.logs()
        );
    }

    /// What the parts of the walk have logged.
    fn logs(&self) -> String {
        let log = |name: &str| {
            let found = fs::read_to_string(self.dir.path().join("home").join(name)).ok()?;
            Some(format!("--- {name}\n{found}"))
        };
        ["daemon.log", "receiver.log", "sluiced-tour/daemon.log", "sluiced-tour/receiver.log"]
            .into_iter()
            .filter_map(log)
            .collect()
    }
}

/// Commands that only look can be repeated until they show what is to come.
fn is_look(commands: &str) -> bool {
    let looks = ["cat ", "grep ", "curl -s ", "sluiced deliveries list", "sluiced explain", "sluiced webhooks list"];
    commands.trim().lines().count() == 1 && looks.iter().any(|look| commands.starts_with(look))
}

/// What was printed, as it is compared: without the shell's own words of what has ended, and with one space for several.
fn squeezed(printed: &str) -> String {
    let ended = Regex::new(r": line \d+: +\d+ (Killed|Terminated)").expect("a pattern");
    let lines = printed.lines().filter(|line| !ended.is_match(line) && !line.trim().is_empty());
    lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect()
}

/// A pattern of what a page says that is printed: `…` is any text, alone in its line any lines.
fn pattern(expected: &str) -> Regex {
    let lines = squeezed(expected);
    let lines = lines.lines().map(|line| match line {
        "…" => "(?:[^\\n]*\\n)*".to_owned(),
        line => line.split('…').map(regex::escape).collect::<Vec<_>>().join("[^\\n]*") + "\\n",
    });
    Regex::new(&format!("^{}$", lines.collect::<String>())).expect("a pattern")
}

fn program(path: &Path, text: &str) {
    fs::write(path, text).expect("it can be written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it can be made a program");
}

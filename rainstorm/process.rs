//! Processes of operators: started confined, fed and drained at once, killed with their whole group when dropped.

use crate::cache;
use crate::cell::Cell;
use crate::error::Error;
use crate::given::Given;
use crate::sandbox;
use crate::spec::{Contract, ExecSpec};
use crate::stderr::Stderr;
use bytes::Bytes;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time;

/// What is said of a process that ended before it had repeated one.
const ENDED: &str = "it ended without the marker line behind";
/// What to do about an operator that repeats no marker lines.
pub const MARKLESS: &str = "it has to repeat each line that begins with byte 0x1e as it came and flush then, or its stage needs `contract = \"batch\"`";
/// The same of one that does not repeat the first.
pub const STATE_MARKLESS: &str = "it has to repeat the first line that begins with byte 0x1e as it came, and to flush then: its batches come behind that";
/// Most bytes that an operator may write for one batch.
pub const OUTPUT_BYTES_MAX: usize = 256 << 20;
/// What is kept of an operator's stderr: its end.
pub const STDERR_BYTES: usize = 8 << 10;
/// What the kernel reads of a first line that names an interpreter.
const SHEBANG_BYTES_MAX: u64 = 256;
/// How long the last words of a failed process are waited for.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// An executable that is ready to run.
pub struct Program {
    pub path: PathBuf,
    /// SHA-256 of its content, in hex.
    pub digest: String,
    /// Files that its processes read.
    pub inputs: Vec<Given>,
    /// What its processes run in.
    pub cell: Arc<Cell>,
    /// `HYDFS_…` variables that tell the process what it is part of.
    pub env: Vec<(&'static str, String)>,
    /// Where what they write to stderr goes, beside its end that is kept of each.
    pub stderr: Stderr,
}

/// A process.
pub struct Running {
    child: Child,
    pid: u32,
    cell: Arc<Cell>,
    /// What the cell's processes had been refused when it began.
    refusals: (u64, u64),
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    /// The end of its stderr.
    stderr: Arc<Mutex<Vec<u8>>>,
    stderr_done: Option<tokio::task::JoinHandle<()>>,
    /// All of it.
    told: Stderr,
}

/// A line that a process has to repeat.
#[derive(Clone, Copy)]
struct Mark<'a> {
    line: &'a [u8],
    behind: &'static str,
    /// What to do about one that ends without.
    remedy: &'static str,
}

/// Why a process did not do what it should.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// What the task itself keeps for it could not be read or written.
    State(Error),
    /// The program or its input is at fault.
    Program(String),
    /// This member could not start it: it lacks descriptors, processes or memory. Elsewhere, or later, it may do well.
    Member(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::State(error)
    }
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self::Program(why)
    }
}

/// Whether the start of a program failed because of what the program is.
fn is_of_program(error: &io::Error) -> bool {
    // It is nothing that can be run, its interpreter is missing, or its arguments are too long.
    matches!(
        error.raw_os_error(),
        Some(libc::ENOEXEC | libc::ENOENT | libc::EACCES | libc::E2BIG)
    )
}

/// The first folder on the way to a file, from below, that not everybody may enter.
fn closed_folder(path: &Path) -> Option<&Path> {
    let is_closed = |dir: &&Path| {
        std::fs::metadata(dir).is_ok_and(|found| found.permissions().mode() & 0o001 == 0)
    };
    path.ancestors().skip(1).find(is_closed)
}

impl Program {
    /// Starts a process, with `argument` behind those of the spec (then without stdin).
    pub async fn start(
        &self,
        spec: &ExecSpec,
        argument: Option<Bytes>,
    ) -> Result<Running, Failure> {
        let mut tries = 0;
        loop {
            match self.spawn(spec, argument.as_deref()) {
                Ok(running) => return Ok(running),
                // Another thread forked while the file was being written; its copy of the descriptor goes at exec.
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < 20 => {
                    tries += 1;
                    time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => {
                    return Err(match is_of_program(&error) {
                        true => Failure::Program(self.not_started(&error)),
                        false => Failure::Member(format!("cannot start: {error}")),
                    });
                }
            }
        }
    }

    /// Why it cannot be started. That something is not there is said of the interpreter, not of the file itself.
    fn not_started(&self, error: &io::Error) -> String {
        let plain = format!("cannot start: {error}");
        if error.raw_os_error() == Some(libc::EACCES)
            && let Some(dir) = closed_folder(&self.path)
        {
            let dir = dir.display();
            return format!(
                "cannot start: the job's owner may not enter {dir} on this member, below which its copy is: `chmod o+x {dir}`"
            );
        }
        if error.raw_os_error() != Some(libc::ENOENT) {
            return plain;
        }
        let mut head = Vec::new();
        let file = std::fs::File::open(&self.path);
        let read = file.and_then(|file| file.take(SHEBANG_BYTES_MAX).read_to_end(&mut head));
        let line = head.split(|&byte| byte == b'\n').next();
        let Some(line) = read
            .ok()
            .and(line)
            .and_then(|line| line.strip_prefix(b"#!"))
        else {
            return plain;
        };
        let mut words = line.split(|byte| b" \t".contains(byte));
        let interpreter = words.find(|word| !word.is_empty()).unwrap_or_default();
        let shown = interpreter.escape_ascii();
        match interpreter.ends_with(b"\r") {
            true => format!(
                "cannot start: its lines end with CR LF, so its interpreter would be `{shown}`: save it with plain line ends"
            ),
            false => format!(
                "cannot start: its interpreter `{shown}` is not on this member: install it on all, or name another in the first line"
            ),
        }
    }

    fn spawn(&self, spec: &ExecSpec, argument: Option<&[u8]>) -> io::Result<Running> {
        let mut command = std::process::Command::new(&self.path);
        command.args(&spec.args).env_clear();
        command
            .env("PATH", cache::PATH.join(":"))
            .env("LANG", "C.UTF-8")
            .env("HOME", self.cell.scratch())
            .env("TMPDIR", self.cell.scratch());
        if let Some(inputs) = self.cell.inputs() {
            command.env("HYDFS_INPUTS", inputs);
        }
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        let stdin = match argument {
            Some(argument) => {
                command.arg(OsStr::from_bytes(argument));
                Stdio::null()
            }
            None => Stdio::piped(),
        };
        command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let unconfined = |error| io::Error::other(format!("cannot confine it: {error}"));
        self.cell.confine(&mut command).map_err(unconfined)?;
        let refusals = self.cell.refusals();
        let mut child = Command::from(command).kill_on_drop(true).spawn()?;
        let missing = || io::Error::other("a pipe of the process is missing");
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let mut errors = child.stderr.take().ok_or_else(missing)?;
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let kept = stderr.clone();
        if spec.contract == Contract::Lines {
            // With the others each batch has a process of its own.
            self.stderr.mark();
        }
        let told = self.stderr.clone();
        let stderr_done = tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = errors.read(&mut buffer).await {
                told.say(&buffer[..count]);
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(&buffer[..count]);
                let over = kept.len().saturating_sub(STDERR_BYTES);
                kept.drain(..over);
            }
        });
        Ok(Running {
            stdin: child.stdin.take(),
            pid: child.id().unwrap_or_default(),
            child,
            cell: self.cell.clone(),
            refusals,
            stdout,
            stderr,
            stderr_done: Some(stderr_done),
            told: self.stderr.clone(),
        })
    }
}

impl Running {
    /// Writes all of `text` (and a line end), closes stdin, and returns all of stdout.
    pub async fn feed_and_collect(&mut self, text: &[u8]) -> Result<Bytes, String> {
        let stdin = self.stdin.take();
        let feed = async {
            let Some(mut stdin) = stdin else { return };
            // Whoever reads only the head of its input closes it early: its exit status decides.
            if stdin.write_all(text).await.is_ok() && stdin.write_all(b"\n").await.is_ok() {
                drop(stdin.shutdown().await);
            }
        };
        let mut all = Vec::new();
        let ((), collected) = tokio::join!(feed, drain(&mut self.stdout, &mut all, None));
        collected.map(|()| all.into())
    }

    /// All of stdout.
    pub async fn collect(&mut self) -> Result<Bytes, String> {
        let mut all = Vec::new();
        drain(&mut self.stdout, &mut all, None)
            .await
            .map(|()| all.into())
    }

    /// Writes lines that it has to know before its first batch.
    pub async fn tell(&mut self, lines: &[u8]) -> Result<(), String> {
        let stdin = self.stdin.as_mut().ok_or("its stdin is closed")?;
        let told = stdin.write_all(lines).await;
        told.map_err(|error| format!("it stopped reading its state: {error}"))
    }

    /// Writes the line `mark` behind its state, which it has to repeat before it says anything else.
    pub async fn agree(&mut self, mark: &[u8]) -> Result<(), String> {
        self.tell(&[mark, b"\n"].concat()).await?;
        let mut all = Vec::new();
        let line = Mark {
            line: mark,
            behind: "its state",
            remedy: STATE_MARKLESS,
        };
        drain(&mut self.stdout, &mut all, Some(line)).await?;
        match all.len() > mark.len() + 1 {
            true => Err("it wrote something before the marker line behind its state".to_owned()),
            false => Ok(()),
        }
    }

    /// Writes `text` and the line `mark`, and returns what comes before the same line on stdout.
    pub async fn converse(&mut self, text: &[u8], mark: &[u8]) -> Result<Bytes, String> {
        let Self { stdin, stdout, .. } = self;
        let stdin = stdin.as_mut().ok_or("its stdin is closed")?;
        let feed = async {
            for part in [text, b"\n", mark, b"\n"] {
                stdin.write_all(part).await?;
            }
            stdin.flush().await
        };
        // If it reads no more, what it writes, or its end, says more about it.
        let feed = async { Ok::<_, String>(feed.await) };
        let mut all = Vec::new();
        let line = Mark {
            line: mark,
            behind: "the batch",
            remedy: MARKLESS,
        };
        let (fed, ()) = tokio::try_join!(feed, drain(stdout, &mut all, Some(line)))?;
        fed.map_err(|error| format!("it stopped reading: {error}"))?;
        all.truncate(all.len() - mark.len() - 1);
        self.whole().map(|()| all.into())
    }

    /// An error if one of its processes was killed for want of memory: others may have taken what it wrote until then for all of it.
    fn whole(&self) -> Result<(), String> {
        match self.cell.refusals().0 > self.refusals.0 {
            true => Err("one of its processes was killed meanwhile".to_owned()),
            false => Ok(()),
        }
    }

    /// The output of a process that should have ended well, or why it has not.
    /// `exit_ok`: the statuses that mean well.
    pub async fn conclude(
        mut self,
        output: Result<Bytes, String>,
        exit_ok: &[i32],
    ) -> Result<Bytes, String> {
        let ended = self.child.wait().await;
        // Whatever it left running: nothing outlives its batch.
        sandbox::kill_group(self.pid);
        let why = match (output, ended) {
            (Ok(bytes), Ok(status))
                if status.code().is_some_and(|code| exit_ok.contains(&code)) =>
            {
                match self.whole() {
                    Ok(()) => return Ok(bytes),
                    Err(why) => why,
                }
            }
            (Err(why), _) => why,
            (Ok(_), Ok(status)) => status.to_string(),
            (Ok(_), Err(error)) => format!("cannot wait for it: {error}"),
        };
        Err(self.last_words(why).await)
    }

    /// `why` with the exit status and the end of stderr.
    pub async fn last_words(mut self, mut why: String) -> String {
        drop(self.stdin.take());
        if let Ok(Ok(status)) = time::timeout(LAST_WORDS, self.child.wait()).await
            && !why.contains("exit status")
        {
            why = match !status.success() && why.starts_with(ENDED) {
                // A program that crashes breaks no contract.
                true => format!("it ended before its work was done ({status})"),
                false => format!("{why} ({status})"),
            };
        }
        if let Some(what) = self.cell.ran_into(self.refusals) {
            why = format!("{what}: {why}");
        }
        if let Some(mut done) = self.stderr_done.take()
            && time::timeout(LAST_WORDS, &mut done).await.is_err()
        {
            // What its children still write is not waited for.
            self.stderr_done = Some(done);
        }
        let stderr = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&stderr);
        if text.trim().is_empty() {
            why
        } else {
            format!("{why}; stderr: {}", text.trim())
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.id().is_some() {
            sandbox::kill_group(self.pid);
        }
        self.cell.kill();
        if let Some(what) = self.cell.ran_into(self.refusals) {
            self.told.note(&what);
        }
        let Some(mut done) = self.stderr_done.take() else {
            return;
        };
        match tokio::runtime::Handle::try_current() {
            // What it has written is still in the pipe.
            Ok(runtime) => drop(runtime.spawn(async move {
                if time::timeout(LAST_WORDS, &mut done).await.is_err() {
                    done.abort();
                }
            })),
            Err(_) => done.abort(),
        }
    }
}

/// Reads until the end, or until the last line is `mark`.
async fn drain(
    stdout: &mut ChildStdout,
    all: &mut Vec<u8>,
    mark: Option<Mark<'_>>,
) -> Result<(), String> {
    let mut size = 16 << 10;
    loop {
        all.reserve(size);
        size = (size * 2).min(1 << 20);
        let count = stdout
            .read_buf(all)
            .await
            .map_err(|error| format!("cannot read its output: {error}"))?;
        match (count, mark) {
            (0, None) => return Ok(()),
            (0, Some(Mark { behind, remedy, .. })) => {
                return Err(format!("{ENDED} {behind}; {remedy}"));
            }
            (_, Some(mark)) if ends_with_line(all, mark.line) => return Ok(()),
            _ if all.len() > OUTPUT_BYTES_MAX => {
                return Err(format!(
                    "it wrote more than {OUTPUT_BYTES_MAX} bytes for one batch"
                ));
            }
            _ => {}
        }
    }
}

fn ends_with_line(all: &[u8], line: &[u8]) -> bool {
    let Some(before) = all
        .strip_suffix(b"\n")
        .and_then(|all| all.strip_suffix(line))
    else {
        return false;
    };
    before.is_empty() || before.ends_with(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_member_lacks_is_not_the_fault_of_the_program() {
        let of_program = |code: i32| is_of_program(&io::Error::from_raw_os_error(code));
        for code in [libc::ENOEXEC, libc::ENOENT, libc::EACCES] {
            assert!(of_program(code), "{code}");
        }
        for code in [libc::EMFILE, libc::ENFILE, libc::EAGAIN, libc::ENOMEM] {
            assert!(!of_program(code), "{code}");
        }
        assert!(!is_of_program(&io::Error::other("a pipe is missing")));
    }

    #[test]
    fn a_folder_that_only_its_owner_may_enter_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("a/b/program");
        std::fs::create_dir_all(dir.path().join("a/b")).expect("folders");
        let set = |dir: &Path, mode| {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(dir, mode).expect("own folder");
        };
        set(&dir.path().join("a/b"), 0o755);
        set(&dir.path().join("a"), 0o755);
        set(dir.path(), 0o700);
        assert_eq!(closed_folder(&file), Some(dir.path()));
        set(dir.path(), 0o711);
        assert_ne!(closed_folder(&file), Some(dir.path()));
    }
}

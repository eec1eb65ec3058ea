//! Runs emerge's interpreter and emerge; nothing else in this program does.

use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;

use parking_lot::{Mutex, MutexGuard};

use super::calculation::{Calculation, CalculationRequest, FORMAT};
use crate::portage::{EmergeProgram, EmergeProgramError};

/// The calculation, which emerge's interpreter runs.
const SCRIPT: &str = concat!(
    include_str!("advisories.py"),
    include_str!("user_flags.py"),
    include_str!("facts.py"),
    include_str!("calculate.py")
);
/// Exit code of the script if it cannot work with this Portage.
const UNUSABLE: i32 = 3;
/// The most bytes of messages that are shown.
const MAX_MESSAGE: usize = 4 << 10;

/// Why there is no calculation.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EmergeError {
    #[error(transparent)]
    Program(#[from] EmergeProgramError),
    #[error("running {path}: {error}")]
    Run { path: PathBuf, error: io::Error },
    /// The script cannot work with this Portage.
    #[error("this Portage is one that binhostfs cannot calculate with: {0}")]
    Unusable(String),
    #[error("the calculation in {path} ended with {status}: {message}")]
    Ended { path: PathBuf, status: ExitStatus, message: String },
    #[error("the calculation's answer is not understood: {0}")]
    Answer(String),
    #[error("interrupted")]
    Interrupted,
}

/// The process that runs, or that none may start any more.
#[derive(Debug, Default)]
struct Running {
    child: Option<Child>,
    is_stopped: bool,
}

/// emerge of this machine.
#[derive(Debug)]
pub(crate) struct EmergeRunner {
    program: EmergeProgram,
    /// PORTAGE_CONFIGROOT, if it is not that of the environment.
    config_root: Option<PathBuf>,
    running: Mutex<Running>,
}

/// The output of a process that has ended, and its status.
struct Ended {
    status: ExitStatus,
    output: Vec<u8>,
    message: Vec<u8>,
}

impl EmergeRunner {
    /// Finds emerge in PATH.
    pub(crate) fn find(config_root: Option<PathBuf>) -> Result<Self, EmergeError> {
        Ok(Self { program: EmergeProgram::find()?, config_root, running: Mutex::default() })
    }

    /// Has emerge calculate a merge list. Blocks until it has.
    pub(crate) fn calculate(&self, request: &CalculationRequest) -> Result<Calculation, EmergeError> {
        let request = serde_json::to_vec(request).map_err(|error| EmergeError::Answer(error.to_string()))?;
        let [interpreter, arguments @ ..] = &self.program.interpreter[..] else {
            return Err(EmergeProgramError::NoInterpreter(self.program.path.clone()).into());
        };
        let mut command = Command::new(interpreter);
        // -I: neither the working directory nor PYTHONPATH add modules.
        command.args(arguments).args(["-I", "-X", "utf8", "-c", SCRIPT]);
        let Ended { status, output, message } = self.run(command, &request)?;
        let message = last(&message);
        match status.code() {
            Some(0) => {}
            Some(UNUSABLE) => return Err(EmergeError::Unusable(message)),
            _ => return Err(EmergeError::Ended { path: interpreter.into(), status, message }),
        }
        let calculation: Calculation =
            serde_json::from_slice(&output).map_err(|error| EmergeError::Answer(error.to_string()))?;
        if calculation.format != FORMAT {
            return Err(EmergeError::Answer(format!("it has format {}", calculation.format)));
        }
        Ok(calculation)
    }

    /// The text of `emerge --pretend --verbose` with these arguments, and whether emerge resolves
    /// them; otherwise the text is its message.
    pub(crate) fn pretend(&self, arguments: &[String], pkgdir: &Path) -> Result<(bool, String), EmergeError> {
        let mut command = Command::new(&self.program.path);
        command.args(arguments).args(["--pretend", "--verbose", "--usepkg", "--getbinpkg=n", "--color=n", "--ask=n"]);
        command.args(["--quiet=n", "--columns=n"]).env("PKGDIR", pkgdir);
        let Ended { status, output, message } = self.run(command, b"")?;
        let output = String::from_utf8_lossy(&output).into_owned();
        Ok(if status.success() { (true, output) } else { (false, output + &last(&message)) })
    }

    /// Stops the process that runs; none is started from now on.
    pub(crate) fn stop(&self) {
        let mut running = self.running();
        running.is_stopped = true;
        if let Some(child) = &mut running.child {
            // It may have ended already.
            let _ = child.kill();
        }
    }

    fn run(&self, mut command: Command, input: &[u8]) -> Result<Ended, EmergeError> {
        let path = PathBuf::from(command.get_program());
        let failed = |error| EmergeError::Run { path: path.clone(), error };
        command.env("LC_ALL", "C.UTF-8");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(root) = &self.config_root {
            command.env("PORTAGE_CONFIGROOT", root);
        }
        let (stdin, stdout, stderr) = {
            let mut running = self.running();
            if running.is_stopped {
                return Err(EmergeError::Interrupted);
            }
            let child = running.child.insert(command.spawn().map_err(failed)?);
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        };
        let (output, message) = thread::scope(|scope| {
            let message = scope.spawn(|| read(stderr));
            scope.spawn(move || {
                // A process that ends early does not read all of it; its exit code says why.
                let _ = stdin.map_or(Ok(()), |mut stdin| stdin.write_all(input));
            });
            (read(stdout), message.join().unwrap_or_else(|_| Ok(Vec::new())))
        });
        // Both streams are closed, so the process ends now. It stays in `running` until then.
        let Some(mut child) = self.running().child.take() else { return Err(EmergeError::Interrupted) };
        let status = child.wait().map_err(failed)?;
        if self.running().is_stopped {
            return Err(EmergeError::Interrupted);
        }
        Ok(Ended { status, output: output.map_err(failed)?, message: message.map_err(failed)? })
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock()
    }
}

fn read(stream: Option<impl Read>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.map_or(Ok(0), |mut stream| stream.read_to_end(&mut bytes))?;
    Ok(bytes)
}

/// The end of a text, at most [`MAX_MESSAGE`] bytes.
fn last(text: &[u8]) -> String {
    let start = text.len().saturating_sub(MAX_MESSAGE);
    String::from_utf8_lossy(text.get(start..).unwrap_or_default()).trim().to_owned()
}

//! An embedder that is a program of the user's: a line of JSON for each batch on its stdin, a line on its stdout. It is started once and
//! ends when its stdin does; what it writes to stderr is the user's to see.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command as Process, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use super::{EmbedError, Embedder, Question, parse_answer};

/// A line longer than this is no answer: 65,536 vectors of 1,024 values take about half of it.
const MAX_ANSWER_BYTES: u64 = 1 << 30;
/// How often it is asked whether it has ended yet.
const POLL: Duration = Duration::from_millis(10);

pub(super) struct Command {
    name: String,
    child: Child,
    /// Written to by a thread of its own: a program that answers before it has read all would else block us both.
    questions: Option<std::sync::mpsc::SyncSender<Vec<u8>>>,
    answers: Receiver<std::io::Result<Vec<u8>>>,
    timeout: Duration,
}

impl Command {
    pub fn start(command: &[String], timeout: Duration) -> Result<Self, EmbedError> {
        let name = command.first().cloned().unwrap_or_default();
        let failed = |what: String| EmbedError::Start { embedder: name.clone(), what };
        let (program, args) = command.split_first().ok_or_else(|| failed("the command is empty".into()))?;
        let mut process = Process::new(program);
        process.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = process.spawn().map_err(|error| failed(error.to_string()))?;
        let stdin = child.stdin.take().expect("piped");
        let stdout = child.stdout.take().expect("piped");
        let (questions, asked) = sync_channel(1);
        let (sender, answers) = sync_channel(1);
        let thread = |name: &str| std::thread::Builder::new().name(name.into());
        thread("annvil-ask").spawn(move || ask(stdin, &asked)).map_err(|error| failed(error.to_string()))?;
        let listen = move || {
            let mut lines = BufReader::new(stdout);
            loop {
                let mut line = Vec::new();
                let read = (&mut lines).take(MAX_ANSWER_BYTES).read_until(b'\n', &mut line);
                let answer = match read {
                    Ok(0) => return,
                    Ok(_) => Ok(line),
                    Err(error) => Err(error),
                };
                let is_over = answer.is_err();
                if sender.send(answer).is_err() || is_over {
                    return;
                }
            }
        };
        thread("annvil-listen").spawn(listen).map_err(|error| failed(error.to_string()))?;
        Ok(Self { name, child, questions: Some(questions), answers, timeout })
    }

    fn gone(&mut self) -> EmbedError {
        let what = match self.wait(Duration::from_secs(1)) {
            Some(status) => format!("it ended with {status}"),
            None => "it closed its output".into(),
        };
        EmbedError::Gone { embedder: self.name.clone(), what }
    }

    /// Its exit status, if it ends in time.
    fn wait(&mut self, limit: Duration) -> Option<std::process::ExitStatus> {
        let start = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if start.elapsed() < limit => std::thread::sleep(POLL),
                _ => return None,
            }
        }
    }
}

/// Until nobody asks any more, or nobody listens.
fn ask(mut stdin: ChildStdin, questions: &Receiver<Vec<u8>>) {
    for question in questions {
        if stdin.write_all(&question).and_then(|()| stdin.flush()).is_err() {
            return;
        }
    }
}

impl Embedder for Command {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn embed(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        let mut question = serde_json::to_vec(&Question { texts }).expect("texts are JSON");
        question.push(b'\n');
        if self.questions.as_ref().is_none_or(|questions| questions.send(question).is_err()) {
            return Err(self.gone());
        }
        match self.answers.recv_timeout(self.timeout) {
            Ok(Ok(line)) => parse_answer(&|| self.name(), &line),
            Ok(Err(error)) => Err(EmbedError::Gone { embedder: self.name(), what: error.to_string() }),
            Err(RecvTimeoutError::Disconnected) => Err(self.gone()),
            Err(RecvTimeoutError::Timeout) => {
                Err(EmbedError::Timeout { embedder: self.name(), seconds: self.timeout.as_secs() })
            }
        }
    }

    fn finish(mut self: Box<Self>) -> Result<(), EmbedError> {
        self.questions = None;
        match self.wait(self.timeout) {
            Some(status) if status.success() => Ok(()),
            Some(status) => {
                Err(EmbedError::Gone { embedder: self.name(), what: format!("it ended with {status}") })
            }
            None => Err(EmbedError::Timeout { embedder: self.name(), seconds: self.timeout.as_secs() }),
        }
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        // It may have ended; then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let command = ["sh", "-c", script].map(String::from);
        Command::start(&command, Duration::from_secs(5)).unwrap()
    }

    #[test]
    fn each_batch_is_a_line_and_has_one_for_an_answer() {
        let mut command = shell(r#"while read line; do echo '{"vectors": [[1, 2.5], [0, -1]]}'; done"#);
        for _ in 0..3 {
            assert_eq!(command.embed(&["a", "b\n\"c\""]).unwrap(), [[1.0, 2.5], [0.0, -1.0]]);
        }
        Box::new(command).finish().unwrap();
    }

    #[test]
    fn what_goes_wrong_is_named() {
        let failed = |script: &str| shell(script).embed(&["a"]).unwrap_err().to_string();
        let gone = failed("read line; exit 3");
        assert!(gone.contains("`sh` is gone") && gone.contains('3'), "{gone}");
        let nonsense = failed("read line; echo Traceback; cat > /dev/null");
        assert!(nonsense.contains("expected {\"vectors\"") && nonsense.contains("Traceback"), "{nonsense}");
        let mut slow = shell("cat > /dev/null");
        slow.timeout = Duration::from_millis(50);
        assert!(matches!(slow.embed(&["a"]), Err(EmbedError::Timeout { .. })));
        let none = Command::start(&["/nonexistent/embedder".into()], Duration::from_secs(1)).err().unwrap();
        assert!(matches!(none, EmbedError::Start { .. }));
        let mut late = shell(r#"read line; echo '{"vectors": [[1]]}'; cat > /dev/null; exit 9"#);
        late.embed(&["a"]).unwrap();
        let late = Box::new(late).finish().unwrap_err().to_string();
        assert!(late.contains('9'), "{late}");
    }
}

//! A proxy that fails: some answers are errors, some never come, some come slowly, some end too early, some say a wrong
//! length. What the client asked may have been done all the same.

use std::io::{BufReader, Result, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use annvil::vectors::Random;

use super::http::{Message, ask, serve};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// A 5xx, and nothing was done.
    Refused,
    /// A 5xx, and it was done.
    DoneAndDenied,
    /// The connection ends, and nothing was done.
    Reset,
    /// The connection ends, and it was done.
    AnswerLost,
    /// It was done; the answer does not come until the client gives up.
    Stalled,
    /// The answer comes in two pieces with a pause between them.
    Slow,
    /// The answer ends in the middle of its body.
    Truncated,
    /// The answer says that its body is one byte shorter than it is.
    TooShort,
    /// The answer says that its body is longer than it is, and the connection ends.
    TooLong,
}

const FAULTS: [Fault; 9] = [
    Fault::Refused,
    Fault::DoneAndDenied,
    Fault::Reset,
    Fault::AnswerLost,
    Fault::Stalled,
    Fault::Slow,
    Fault::Truncated,
    Fault::TooShort,
    Fault::TooLong,
];

/// How long a stalled answer is held back: longer than the clients of the tests wait.
const STALL: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(30);

pub struct Proxy {
    pub port: u16,
    pub requests: Arc<AtomicU64>,
    /// Of each kind, in the order of the list.
    faults: Arc<[AtomicUsize; FAULTS.len()]>,
}

impl Proxy {
    /// Before the server at `upstream`, failing at `rate`; which requests, the seed says.
    pub fn start(upstream: u16, rate: f64, seed: u64) -> Self {
        let requests = Arc::new(AtomicU64::new(0));
        let faults: Arc<[AtomicUsize; FAULTS.len()]> = Arc::default();
        let (counted, told) = (requests.clone(), faults.clone());
        let port = serve(move |stream| {
            let mut reader = BufReader::new(stream.try_clone()?);
            let mut writer = stream;
            while let Some(request) = Message::read(&mut reader, false)? {
                let number = counted.fetch_add(1, Ordering::SeqCst);
                let mut random = Random::of(seed, number);
                let fails = random.below(1_000_000) < (rate * 1e6) as usize;
                let kind = random.below(FAULTS.len());
                let fault = fails.then(|| {
                    told[kind].fetch_add(1, Ordering::SeqCst);
                    FAULTS[kind]
                });
                if !pass(&request, upstream, fault, &mut writer)? {
                    return Ok(());
                }
            }
            Ok(())
        });
        Self { port, requests, faults }
    }

    /// Faults of each kind so far.
    pub fn told(&self) -> String {
        let told = FAULTS.iter().zip(self.faults.iter());
        let told: Vec<String> =
            told.map(|(fault, count)| format!("{fault:?} {}", count.load(Ordering::SeqCst))).collect();
        format!("{} requests; {}", self.requests.load(Ordering::SeqCst), told.join(", "))
    }

    pub fn failed(&self) -> usize {
        self.faults.iter().map(|count| count.load(Ordering::SeqCst)).sum()
    }
}

/// Whether the connection may go on.
fn pass(request: &Message, upstream: u16, fault: Option<Fault>, client: &mut TcpStream) -> Result<bool> {
    let denied = || Message::answer("503 Service Unavailable").body("<Error><Code>SlowDown</Code></Error>");
    match fault {
        Some(Fault::Refused) => {
            denied().write(client)?;
            return Ok(true);
        }
        Some(Fault::Reset) => return Ok(false),
        _ => (),
    }
    let answer = ask(upstream, request)?;
    let is_head = request.method() == "HEAD";
    // The length that an answer to `HEAD` says is the object's.
    let length = match is_head {
        true => answer.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0),
        false => answer.body.len(),
    };
    let body: &[u8] = if is_head { &[] } else { &answer.body };
    let (half, rest) = body.split_at(body.len() / 2);
    match fault {
        Some(Fault::DoneAndDenied) => denied().write(client)?,
        Some(Fault::AnswerLost) => return Ok(false),
        Some(Fault::Stalled) => {
            std::thread::sleep(STALL);
            return Ok(false);
        }
        Some(Fault::Slow) => {
            client.write_all(&answer.head(Some(length)))?;
            client.write_all(half)?;
            std::thread::sleep(PAUSE);
            client.write_all(rest)?;
        }
        Some(Fault::Truncated) => {
            client.write_all(&answer.head(Some(length)))?;
            client.write_all(half)?;
            return Ok(false);
        }
        Some(Fault::TooShort) => {
            client.write_all(&answer.head(Some(length.saturating_sub(1))))?;
            client.write_all(body)?;
            return Ok(false);
        }
        Some(Fault::TooLong) => {
            client.write_all(&answer.head(Some(length + 9)))?;
            client.write_all(body)?;
            return Ok(false);
        }
        _ => {
            client.write_all(&answer.head(Some(length)))?;
            client.write_all(body)?;
        }
    }
    client.flush()?;
    Ok(true)
}

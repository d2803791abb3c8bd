//! As much of HTTP/1.1 as an object store's fixture and a proxy before one need: whole messages, a length or chunks.

use std::io::{BufRead, BufReader, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

#[derive(Debug, Clone)]
pub struct Message {
    /// `GET /path HTTP/1.1` or `HTTP/1.1 200 OK`.
    pub first: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Message {
    pub fn answer(status: &str) -> Self {
        Self { first: format!("HTTP/1.1 {status}"), headers: Vec::new(), body: Vec::new() }
    }

    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.into(), value.to_string()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub fn method(&self) -> &str {
        self.first.split(' ').next().unwrap()
    }

    pub fn target(&self) -> &str {
        self.first.split(' ').nth(1).unwrap()
    }

    /// `None` at the connection's end. `bodiless`: an answer to `HEAD`.
    pub fn read(stream: &mut impl BufRead, bodiless: bool) -> Result<Option<Self>> {
        let mut line = || {
            let mut text = String::new();
            stream.read_line(&mut text)?;
            Ok::<_, std::io::Error>(text.trim_end().to_string())
        };
        let first = line()?;
        if first.is_empty() {
            return Ok(None);
        }
        let mut headers = Vec::new();
        loop {
            let header = line()?;
            let Some((name, value)) = header.split_once(':') else { break };
            headers.push((name.to_string(), value.trim().to_string()));
        }
        let mut message = Self { first, headers, body: Vec::new() };
        if bodiless || [" 204 ", " 304 "].iter().any(|status| message.first.contains(status)) {
            return Ok(Some(message));
        }
        if message.header("transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
            message.body = chunks(stream)?;
        } else if let Some(length) = message.header("content-length").and_then(|length| length.parse().ok()) {
            let mut body = vec![0; length];
            stream.read_exact(&mut body)?;
            message.body = body;
        } else if message.first.starts_with("HTTP/") {
            stream.read_to_end(&mut message.body)?;
        }
        Ok(Some(message))
    }

    /// The message's bytes, with `length` in place of the body's where it is given.
    pub fn head(&self, length: Option<usize>) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.first);
        for (name, value) in &self.headers {
            if !["content-length", "transfer-encoding", "connection"]
                .contains(&name.to_ascii_lowercase().as_str())
            {
                text += &format!("{name}: {value}\r\n");
            }
        }
        text += &format!("Content-Length: {}\r\n\r\n", length.unwrap_or(self.body.len()));
        text.into_bytes()
    }

    pub fn write(&self, stream: &mut impl Write) -> Result<()> {
        stream.write_all(&self.head(None))?;
        stream.write_all(&self.body)?;
        stream.flush()
    }
}

fn chunks(stream: &mut impl BufRead) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut size = String::new();
        stream.read_line(&mut size)?;
        let size = usize::from_str_radix(size.trim().split(';').next().unwrap(), 16)
            .map_err(|error| std::io::Error::other(format!("chunk size {size:?}: {error}")))?;
        let mut chunk = vec![0; size + 2];
        stream.read_exact(&mut chunk)?;
        if size == 0 {
            return Ok(body);
        }
        body.extend_from_slice(&chunk[..size]);
    }
}

/// Serves each connection on a thread of its own until the process ends; the port.
pub fn serve(connection: impl Fn(TcpStream) -> Result<()> + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let connection = Arc::new(connection);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connection = connection.clone();
            std::thread::spawn(move || {
                let _ = stream.set_nodelay(true);
                // A client that goes away is no fault of the server's.
                let _ = connection(stream);
            });
        }
    });
    port
}

/// One request to a server on this machine; an error where nobody listens yet.
pub fn ask(port: u16, request: &Message) -> Result<Message> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    let mut head = request.head(None);
    head.truncate(head.len() - 2);
    head.extend_from_slice(b"Connection: close\r\n\r\n");
    stream.write_all(&head)?;
    // A server may answer before it has read all, and close; what it said is there to be read.
    let written = stream.write_all(&request.body);
    let answer = Message::read(&mut BufReader::new(stream), request.method() == "HEAD")?;
    match answer {
        Some(answer) => Ok(answer),
        None => Err(written.err().unwrap_or_else(|| std::io::Error::other("no answer"))),
    }
}

pub fn request(method: &str, target: &str) -> Message {
    let first = format!("{method} {target} HTTP/1.1");
    Message { first, headers: vec![("Host".into(), "127.0.0.1".into())], body: Vec::new() }
}

//! Google Cloud Storage's XML API in memory: objects with generations, listing, uploads in parts, and the preconditions
//! `x-goog-if-generation-match` and `If-Match`. No emulator of it is to be had; this one is held to the same tests as the
//! other stores' real servers.

use std::collections::BTreeMap;
use std::io::{BufReader, Result};
use std::net::TcpStream;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use super::http::{Message, serve};

#[derive(Default)]
struct Bucket {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, BTreeMap<u32, Vec<u8>>>,
    generation: u64,
}

struct Object {
    bytes: Vec<u8>,
    generation: u64,
    written: u64,
}

/// Starts a server with one bucket; its port.
pub fn start(bucket: &'static str) -> u16 {
    let store = Mutex::new(Bucket::default());
    serve(move |stream: TcpStream| -> Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut writer = stream;
        while let Some(request) = Message::read(&mut reader, false)? {
            let answer = answer(&mut store.lock().unwrap(), bucket, &request);
            if request.method() == "HEAD" {
                // Its length is the object's.
                let length = answer.header("x-length").and_then(|length| length.parse().ok());
                std::io::Write::write_all(&mut writer, &answer.head(length))?;
            } else {
                answer.write(&mut writer)?;
            }
        }
        Ok(())
    })
}

fn answer(store: &mut Bucket, bucket: &str, request: &Message) -> Message {
    let (path, query) = request.target().split_once('?').unwrap_or((request.target(), ""));
    let query: BTreeMap<String, String> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect();
    let Some(key) = path.strip_prefix(&format!("/{bucket}")) else {
        return Message::answer("404 Not Found").body("<Error><Code>NoSuchBucket</Code></Error>");
    };
    let key = decoded(key.trim_start_matches('/'));
    match (request.method(), key.as_str()) {
        ("GET", "") => list(store, &query),
        ("GET" | "HEAD", key) => read(store, key, request),
        ("PUT", key) if query.contains_key("uploadId") => put_part(store, key, &query, request),
        ("PUT", key) => put(store, key, request),
        ("POST", key) if query.contains_key("uploads") => {
            store.generation += 1;
            let id = format!("upload-{}", store.generation);
            store.uploads.insert(id.clone(), BTreeMap::new());
            let xml = format!(
                "<InitiateMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{}</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>",
                escaped(key)
            );
            Message::answer("200 OK").body(xml)
        }
        ("POST", key) => complete(store, key, &query),
        ("DELETE", _) if query.contains_key("uploadId") => {
            store.uploads.remove(&query["uploadId"]);
            Message::answer("204 No Content")
        }
        ("DELETE", key) => match store.objects.remove(key) {
            Some(_) => Message::answer("204 No Content"),
            None => not_found(),
        },
        _ => Message::answer("405 Method Not Allowed"),
    }
}

fn not_found() -> Message {
    Message::answer("404 Not Found").body("<Error><Code>NoSuchKey</Code></Error>")
}

fn put(store: &mut Bucket, key: &str, request: &Message) -> Message {
    let now = store.objects.get(key).map_or(0, |object| object.generation);
    if let Some(wanted) = request.header("x-goog-if-generation-match")
        && wanted.parse() != Ok(now)
    {
        return Message::answer("412 Precondition Failed")
            .body("<Error><Code>PreconditionFailed</Code></Error>");
    }
    written(store, key, request.body.clone())
}

fn written(store: &mut Bucket, key: &str, bytes: Vec<u8>) -> Message {
    store.generation += 1;
    let written = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    store.objects.insert(key.into(), Object { bytes, generation: store.generation, written });
    let generation = store.generation;
    Message::answer("200 OK").with("ETag", e_tag(generation)).with("x-goog-generation", generation)
}

fn put_part(store: &mut Bucket, _key: &str, query: &BTreeMap<String, String>, request: &Message) -> Message {
    let Some(parts) = store.uploads.get_mut(&query["uploadId"]) else { return not_found() };
    parts.insert(query["partNumber"].parse().unwrap(), request.body.clone());
    Message::answer("200 OK").with("ETag", format!("\"part-{}\"", query["partNumber"]))
}

fn complete(store: &mut Bucket, key: &str, query: &BTreeMap<String, String>) -> Message {
    let Some(parts) = store.uploads.remove(&query["uploadId"]) else { return not_found() };
    let mut answer = written(store, key, parts.into_values().flatten().collect());
    let xml = format!(
        "<CompleteMultipartUploadResult><ETag>{}</ETag></CompleteMultipartUploadResult>",
        escaped(&e_tag(store.generation))
    );
    answer.body = xml.into_bytes();
    answer
}

fn read(store: &Bucket, key: &str, request: &Message) -> Message {
    let Some(object) = store.objects.get(key) else { return not_found() };
    let e_tag = e_tag(object.generation);
    if request.header("if-match").is_some_and(|wanted| wanted != e_tag) {
        return Message::answer("412 Precondition Failed");
    }
    let size = object.bytes.len();
    let found = |status: &str| {
        Message::answer(status)
            .with("ETag", &e_tag)
            .with("x-goog-generation", object.generation)
            .with("Last-Modified", http_date(object.written))
    };
    let range = request.header("range").and_then(|range| {
        let (start, end) = range.strip_prefix("bytes=")?.split_once('-')?;
        match (start.parse::<usize>(), end.parse::<usize>()) {
            (Ok(start), end) => Some(start..end.map_or(size, |end| size.min(end + 1))),
            (Err(_), Ok(suffix)) => Some(size.saturating_sub(suffix)..size),
            _ => None,
        }
    });
    match range {
        None if request.method() == "HEAD" => found("200 OK").with("x-length", size),
        None => found("200 OK").body(object.bytes.clone()),
        Some(range) if range.start >= range.end => Message::answer("416 Requested Range Not Satisfiable")
            .with("Content-Range", format!("bytes */{size}")),
        Some(range) => found("206 Partial Content")
            .with("Content-Range", format!("bytes {}-{}/{size}", range.start, range.end - 1))
            .body(&object.bytes[range]),
    }
}

/// A few at a time, so that whoever lists has to go on.
fn list(store: &Bucket, query: &BTreeMap<String, String>) -> Message {
    const PAGE: usize = 7;
    let get = |name: &str| query.get(name).map_or("", String::as_str);
    let (prefix, delimiter, after) = (get("prefix"), get("delimiter"), get("continuation-token"));
    let mut xml = String::new();
    let mut last_folder = String::new();
    let mut told = 0;
    let mut token = None;
    for (key, object) in store.objects.range(after.to_string()..) {
        let Some(rest) = key.strip_prefix(prefix) else { continue };
        if told == PAGE {
            token = Some(key.clone());
            break;
        }
        match rest.split_once(delimiter).filter(|_| !delimiter.is_empty()) {
            Some((folder, _)) if folder == last_folder => continue,
            Some((folder, _)) => {
                last_folder = folder.into();
                xml += &format!(
                    "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>",
                    escaped(&format!("{prefix}{folder}{delimiter}"))
                );
            }
            None => {
                xml += &format!(
                    "<Contents><Key>{}</Key><Size>{}</Size><LastModified>{}</LastModified><ETag>{}</ETag></Contents>",
                    escaped(key),
                    object.bytes.len(),
                    iso_date(object.written),
                    escaped(&e_tag(object.generation))
                );
            }
        }
        told += 1;
    }
    if let Some(token) = token {
        xml += &format!("<NextContinuationToken>{}</NextContinuationToken>", escaped(&token));
    }
    Message::answer("200 OK").body(format!("<ListBucketResult>{xml}</ListBucketResult>"))
}

fn e_tag(generation: u64) -> String {
    format!("\"g{generation}\"")
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'%', [high, low, tail @ ..]) => {
                let digits = [*high, *low];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
                rest = tail;
            }
            (b'+', _) => bytes.push(b' '),
            (byte, _) => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

/// Year, month, day, hour, minute, second.
fn civil(unix: u64) -> [u64; 6] {
    let (days, seconds) = (unix / 86_400, unix % 86_400);
    let (mut year, mut days) = (1970, days);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    [year, month as u64 + 1, days + 1, seconds / 3600, seconds / 60 % 60, seconds % 60]
}

fn iso_date(unix: u64) -> String {
    let [year, month, day, hour, minute, second] = civil(unix);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

fn http_date(unix: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let [year, month, day, hour, minute, second] = civil(unix);
    let (week_day, month) = (DAYS[(unix / 86_400 % 7) as usize], MONTHS[month as usize - 1]);
    format!("{week_day}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} GMT")
}

//! Text → vectors. An [`Embedder`] takes texts in batches and answers each with a vector; what it answers is checked for number and
//! length before it is believed, and what a vector holds by the row hygiene of any source.

mod command;
mod error;
mod hashed;
#[cfg(feature = "cloud")]
mod http;

use std::sync::Arc;
use std::time::Duration;

use arrow_array::builder::{Float32Builder, ListBuilder};
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use serde::Serialize;

use super::MAX_DIM;
use crate::store::Secret;

pub use error::EmbedError;
pub use hashed::Hashed;

/// Something that turns texts into vectors.
pub trait Embedder: Send {
    /// As an error calls it.
    fn name(&self) -> String;

    /// A vector for each text, in their order, all of one length.
    ///
    /// # Errors
    /// What kept it from answering. What it answers is checked by the caller.
    fn embed(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError>;

    /// Nothing more is asked.
    ///
    /// # Errors
    /// A late confession: a command that exits with a failure.
    fn finish(self: Box<Self>) -> Result<(), EmbedError> {
        Ok(())
    }
}

/// Which embedder, and what it is given.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EmbedSpec {
    /// The column of text.
    pub text: String,
    #[serde(flatten)]
    pub kind: EmbedderKind,
    /// Texts handed over at a time, 1 to 65,536.
    pub batch: usize,
    /// How long a batch may take, in seconds.
    pub timeout_s: u64,
}

impl EmbedSpec {
    pub const DEFAULT_BATCH: usize = 256;
    pub const DEFAULT_TIMEOUT_S: u64 = 60;

    pub fn new(text: &str, kind: EmbedderKind) -> Self {
        Self { text: text.into(), kind, batch: Self::DEFAULT_BATCH, timeout_s: Self::DEFAULT_TIMEOUT_S }
    }

    /// Whether the same text has the same vector tomorrow.
    pub(super) fn is_repeatable(&self) -> bool {
        matches!(self.kind, EmbedderKind::Hashed { .. })
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EmbedderKind {
    /// [`Hashed`].
    Hashed { buckets: usize },
    /// A program that reads `{"texts": […]}` a line from stdin and answers `{"vectors": [[…], …]}` a line on stdout.
    Command { command: Vec<String> },
    /// The same by `POST`.
    Http {
        url: String,
        /// Sent as `Authorization: Bearer`.
        #[serde(skip_serializing_if = "Option::is_none")]
        credential: Option<Secret>,
    },
}

impl EmbedderKind {
    pub const NAMES: &'static [&'static str] = &["hashed", "command", "http"];

    /// # Errors
    /// A command that cannot be started, a credential that is not there, a build without HTTP.
    pub fn start(&self, timeout: Duration) -> Result<Box<dyn Embedder>, EmbedError> {
        Ok(match self {
            Self::Hashed { buckets } => Box::new(Hashed::new(*buckets)),
            Self::Command { command } => Box::new(command::Command::start(command, timeout)?),
            #[cfg(feature = "cloud")]
            Self::Http { url, credential } => Box::new(http::Http::new(url, credential.as_ref(), timeout)?),
            #[cfg(not(feature = "cloud"))]
            Self::Http { url, .. } => return Err(EmbedError::NoHttp { url: url.clone() }),
        })
    }
}

/// An embedder at work on batches of rows.
pub(super) struct Embedding {
    embedder: Box<dyn Embedder>,
    text: String,
    vector: String,
    batch: usize,
    dim: Option<usize>,
}

impl Embedding {
    pub fn start(spec: &EmbedSpec, vector: &str) -> Result<Self, EmbedError> {
        let embedder = spec.kind.start(Duration::from_secs(spec.timeout_s))?;
        Ok(Self { embedder, text: spec.text.clone(), vector: vector.into(), batch: spec.batch, dim: None })
    }

    /// The rows with the column of vectors behind the others. A text that is null has a vector that is null.
    pub fn embed(&mut self, rows: &RecordBatch) -> Result<RecordBatch, EmbedError> {
        let texts = rows
            .column_by_name(&self.text)
            .ok_or_else(|| EmbedError::Column { column: self.text.clone(), got: "no such column".into() })?;
        let texts = text_of(texts).map_err(|got| EmbedError::Column { column: self.text.clone(), got })?;
        let mut vectors = ListBuilder::new(Float32Builder::new());
        for start in (0..texts.len()).step_by(self.batch) {
            let slice = texts.slice(start, self.batch.min(texts.len() - start));
            let mut answers = self.answers(&slice.iter().flatten().collect::<Vec<&str>>())?.into_iter();
            for text in &slice {
                match text {
                    Some(_) => {
                        let vector = answers.next().expect("as many as texts");
                        vectors.values().append_slice(&vector);
                        vectors.append(true);
                    }
                    None => vectors.append(false),
                }
            }
        }
        let schema = rows.schema();
        let others = schema.fields().iter().enumerate().filter(|(_, field)| *field.name() != self.vector);
        let (mut fields, mut columns): (Vec<Arc<Field>>, Vec<ArrayRef>) =
            others.map(|(at, field)| (field.clone(), rows.column(at).clone())).unzip();
        let vectors: ArrayRef = Arc::new(vectors.finish());
        fields.push(Arc::new(Field::new(&self.vector, vectors.data_type().clone(), true)));
        columns.push(vectors);
        Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("columns of as many rows"))
    }

    fn answers(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let vectors = self.embedder.embed(texts)?;
        let wrong = |what| EmbedError::Answer { embedder: self.embedder.name(), what };
        if vectors.len() != texts.len() {
            return Err(wrong(format!("expected {} vectors, got {}", texts.len(), vectors.len())));
        }
        let dim = *self.dim.get_or_insert(vectors[0].len());
        if dim == 0 || dim > MAX_DIM {
            return Err(wrong(format!("expected vectors of 1 to {MAX_DIM} values, got {dim}")));
        }
        match vectors.iter().find(|vector| vector.len() != dim) {
            Some(vector) => {
                Err(wrong(format!("expected vectors of {dim} values, got one of {}", vector.len())))
            }
            None => Ok(vectors),
        }
    }

    pub fn finish(self) -> Result<(), EmbedError> {
        self.embedder.finish()
    }
}

fn text_of(column: &ArrayRef) -> Result<StringArray, String> {
    let is_text = match column.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => values.is_string(),
        _ => false,
    };
    if !is_text {
        return Err(column.data_type().to_string());
    }
    let texts = arrow_cast::cast(column, &DataType::Utf8).map_err(|error| error.to_string())?;
    Ok(texts.as_any().downcast_ref::<StringArray>().expect("just cast").clone())
}

/// What an embedder that is asked in JSON is sent.
#[derive(Serialize)]
struct Question<'a> {
    texts: &'a [&'a str],
}

#[derive(serde::Deserialize)]
struct Answer {
    vectors: Vec<Vec<f32>>,
}

/// A JSON answer; the beginning of what is none is told.
fn parse_answer(embedder: &dyn Fn() -> String, bytes: &[u8]) -> Result<Vec<Vec<f32>>, EmbedError> {
    const SHOWN: usize = 200;
    serde_json::from_slice::<Answer>(bytes).map(|answer| answer.vectors).map_err(|error| {
        let begins =
            String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]).trim().replace(char::is_control, " ");
        let what = format!("expected {{\"vectors\": [[…], …]}}, got `{begins}`: {error}");
        EmbedError::Answer { embedder: embedder(), what }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says what it was told to.
    struct Saying(Vec<Vec<f32>>);

    impl Embedder for Saying {
        fn name(&self) -> String {
            "saying".into()
        }

        fn embed(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
            Ok(self.0.drain(..texts.len().min(self.0.len())).collect())
        }
    }

    fn embed(texts: Vec<Option<&str>>, answers: &[&[f32]]) -> Result<RecordBatch, EmbedError> {
        let texts: ArrayRef = Arc::new(StringArray::from(texts));
        let rows = RecordBatch::try_from_iter_with_nullable([("text", texts, true)]).unwrap();
        let embedder = Box::new(Saying(answers.iter().map(|answer| answer.to_vec()).collect()));
        let mut embedding =
            Embedding { embedder, text: "text".into(), vector: "v".into(), batch: 2, dim: None };
        embedding.embed(&rows)
    }

    #[test]
    fn each_text_has_its_vector_and_a_null_has_none() {
        use arrow_array::cast::AsArray;
        use arrow_array::types::Float32Type;
        let texts = vec![Some("a"), None, Some("b"), Some("c"), None];
        let rows = embed(texts, &[&[1.0, 2.0], &[3.0, 4.0], &[5.0, 6.0]]).unwrap();
        let vectors = rows["v"].as_list::<i32>();
        assert!(vectors.is_null(1) && vectors.is_null(4));
        for (row, expected) in [(0, [1.0, 2.0]), (2, [3.0, 4.0]), (3, [5.0, 6.0])] {
            assert_eq!(vectors.value(row).as_primitive::<Float32Type>().values(), &expected);
        }
    }

    #[test]
    fn an_answer_of_another_number_or_length_is_refused() {
        let two = vec![Some("a"), Some("b")];
        for (answers, expected) in [
            (&[&[1.0][..]][..], "expected 2 vectors, got 1"),
            (&[&[1.0][..], &[1.0, 2.0]], "expected vectors of 1 values, got one of 2"),
            (&[&[][..], &[]], "expected vectors of 1 to 65536 values, got 0"),
        ] {
            let error = embed(two.clone(), answers).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}

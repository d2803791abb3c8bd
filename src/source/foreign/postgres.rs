//! PostgreSQL: a table, view or query by binary COPY, as it is at one moment.
//!
//! One connection opens a REPEATABLE READ transaction and exports its snapshot; others join it and copy ranges of a table's blocks
//! (by ctid, which PostgreSQL 14 and later scan as a range), so that what others commit meanwhile is neither seen nor half seen. Rows are
//! handed on in the order in which they lie. Views, partitioned tables and queries are copied by the first connection alone.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use futures_util::StreamExt;
use tokio::sync::Mutex;
use tokio_postgres::binary_copy::BinaryCopyOutStream;
use tokio_postgres::config::SslMode;
use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{Client, Config, NoTls};

use super::pgpass::{self, Login};
use super::postgres_tls::Tls;
use super::postgres_types::{ColumnBuilder, columns_of};
use super::{ForeignError, ForeignOptions, Stage, Wanted, shown, uri_problem};

/// Connections that copy at once.
const CONNECTIONS: usize = 4;
/// A range of blocks holds about so much, out-of-line values included; as many ranges as connections are in memory.
const RANGE_BYTES: u64 = 16 << 20;
/// A batch of rows holds about so much.
const BATCH_BYTES: usize = 4 << 20;
const MAX_BATCH_ROWS: usize = 16_384;
const CONNECT: Duration = Duration::from_secs(10);
/// A server that is silent for so long has gone.
const SILENCE: Duration = Duration::from_secs(60);

pub(super) async fn read(
    uri: &str,
    options: &ForeignOptions,
    wanted: &Wanted,
    stage: &mut Stage<'_>,
) -> Result<(), ForeignError> {
    let server = Server::of(uri, options)?;
    let leader = server.connect().await?;
    leader
        .batch_execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await
        .map_err(|error| server.failed(&error, 0))?;
    let relation = Relation::of(&server, &leader, options).await?;
    let copy = CopyOut::of(&server, &leader, &relation, wanted).await?;
    if relation.ranges.len() < 2 {
        return copy.whole(&server, &leader, stage).await;
    }
    let row = leader.query_one("SELECT pg_export_snapshot()", &[]).await;
    let snapshot: String = row.map_err(|error| server.failed(&error, 0))?.get(0);
    let mut joined = Vec::new();
    for _ in 0..CONNECTIONS.min(relation.ranges.len()) {
        joined.push(server.join(&snapshot).await?);
    }
    let clients = Arc::new(Mutex::new(joined));
    let (copy, server) = (Arc::new(copy), Arc::new(server));
    let mut ranges = futures_util::stream::iter(relation.ranges)
        .map(|range| {
            let (copy, server, clients) = (copy.clone(), server.clone(), clients.clone());
            // Each on a thread of the runtime's: values are decoded there.
            tokio::spawn(async move {
                let client = clients.lock().await.pop().expect("as many clients as ranges under way");
                let batches = copy.range(&server, &client, range).await?;
                clients.lock().await.push(client);
                Ok::<_, ForeignError>(batches)
            })
        })
        .buffered(CONNECTIONS);
    while let Some(batches) = ranges.next().await {
        let batches = batches.map_err(|panic| server.interrupted(stage.rows, &panic))?;
        let batches = batches.map_err(|error| error.after(stage.rows))?;
        for (batch, bytes) in batches {
            stage.push(&batch, bytes)?;
        }
    }
    // The leader's transaction holds the snapshot until here.
    drop(leader);
    Ok(())
}

impl ForeignError {
    /// With the rows that had come before.
    fn after(self, rows: u64) -> Self {
        match self {
            Self::Interrupted { uri, what, .. } => Self::Interrupted { uri, rows, what },
            error => error,
        }
    }
}

/// Where the database is and who asks.
struct Server {
    uri: String,
    config: Config,
}

impl Server {
    fn of(uri: &str, options: &ForeignOptions) -> Result<Self, ForeignError> {
        let shown = shown(uri);
        let wrong = |what: String| ForeignError::Uri { uri: shown.clone(), what };
        if let Some(problem) = uri_problem(uri) {
            return Err(wrong(problem.into()));
        }
        let mut config: Config = uri.parse().map_err(|error: tokio_postgres::Error| wrong(chain(&error)))?;
        let environment = |name: &str| std::env::var(name).ok();
        if config.get_hosts().is_empty() {
            config.host(environment("PGHOST").unwrap_or_else(|| "localhost".into()));
        }
        if let (true, Some(port)) = (config.get_ports().is_empty(), environment("PGPORT")) {
            config.port(port.parse().map_err(|_| wrong(format!("PGPORT is no port: `{port}`")))?);
        }
        if let (None, Some(database)) = (config.get_dbname(), environment("PGDATABASE")) {
            config.dbname(database);
        }
        if config.get_user().is_none() {
            let user = environment("PGUSER").or_else(|| environment("USER"));
            config.user(user.ok_or_else(|| wrong("names no user, and neither does PGUSER".into()))?);
        }
        if config.get_application_name().is_none() {
            config.application_name("annvil");
        }
        config.connect_timeout(CONNECT).keepalives_idle(SILENCE / 2).tcp_user_timeout(SILENCE);
        let refused = |what| ForeignError::Credential { uri: shown.clone(), what };
        let password = match &options.credential {
            Some(secret) => Some(secret.resolve().map_err(refused)?),
            None => match std::env::var("PGPASSWORD") {
                Ok(password) => Some(password),
                Err(_) => from_file(&config).map_err(refused)?,
            },
        };
        if let Some(password) = password {
            config.password(password);
        }
        Ok(Self { uri: shown, config })
    }

    async fn connect(&self) -> Result<Client, ForeignError> {
        let failed = |error: &dyn std::error::Error| ForeignError::Connect {
            uri: self.uri.clone(),
            what: chain(error),
        };
        // A connection ends when its client is dropped, or by itself; what asks then is told.
        if self.config.get_ssl_mode() == SslMode::Require {
            let tls = Tls::new().map_err(|error| failed(&error))?;
            let (client, connection) = self.config.connect(tls).await.map_err(|error| failed(&error))?;
            tokio::spawn(connection);
            return Ok(client);
        }
        let (client, connection) = self.config.connect(NoTls).await.map_err(|error| failed(&error))?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// A connection that sees what the snapshot's does.
    async fn join(&self, snapshot: &str) -> Result<Client, ForeignError> {
        let client = self.connect().await?;
        let begin = format!(
            "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{}'",
            snapshot.replace('\'', "''")
        );
        client.batch_execute(&begin).await.map_err(|error| self.failed(&error, 0))?;
        Ok(client)
    }

    /// A refusal of the server's, or its end.
    fn failed(&self, error: &tokio_postgres::Error, rows: u64) -> ForeignError {
        match error.as_db_error() {
            // Class 57 is "operator intervention": shut down, cancelled, killed.
            Some(refusal) if !refusal.code().code().starts_with("57") => {
                ForeignError::Refused { uri: self.uri.clone(), what: chain(error) }
            }
            _ => self.interrupted(rows, error),
        }
    }

    fn interrupted(&self, rows: u64, error: &dyn std::error::Error) -> ForeignError {
        ForeignError::Interrupted { uri: self.uri.clone(), rows, what: chain(error) }
    }
}

fn from_file(config: &Config) -> Result<Option<String>, String> {
    let Some(file) = pgpass::file() else { return Ok(None) };
    let host = match config.get_hosts().first() {
        Some(tokio_postgres::config::Host::Tcp(host)) => host.as_str(),
        // As libpq calls its default socket.
        _ => "localhost",
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let user = config.get_user().unwrap_or_default();
    pgpass::password(&file, Login { host, port, database: config.get_dbname().unwrap_or(user), user })
}

/// What is read.
struct Relation {
    /// As SQL names it after FROM.
    from: String,
    /// Blocks; none where it can only be read as a whole.
    ranges: Vec<Range<u64>>,
}

impl Relation {
    async fn of(server: &Server, leader: &Client, options: &ForeignOptions) -> Result<Self, ForeignError> {
        let wrong = |what: String| ForeignError::Uri { uri: server.uri.clone(), what };
        let table = match (&options.table, &options.query) {
            (Some(_), Some(_)) => {
                return Err(wrong("found `table` and `query`; allowed: one of them".into()));
            }
            (None, None) => {
                return Err(wrong(
                    "needs to be told what to read: `table = \"…\"` or `query = \"SELECT …\"`".into(),
                ));
            }
            (None, Some(query)) => {
                let query = query.trim().trim_end_matches(';');
                return Ok(Self { from: format!("({query}) AS source"), ranges: Vec::new() });
            }
            (Some(table), None) => table,
        };
        let row = leader
            .query_opt(
                "SELECT c.oid::regclass::text, c.relkind = 'r', \
                   CASE WHEN c.relkind = 'r' THEN pg_relation_size(c.oid) / current_setting('block_size')::int8 ELSE 0 END, \
                   CASE WHEN c.relkind = 'r' THEN pg_table_size(c.oid) ELSE 0 END \
                 FROM pg_class c WHERE c.oid = to_regclass($1)",
                &[table],
            )
            .await
            .map_err(|error| server.failed(&error, 0))?;
        let row = row.ok_or_else(|| wrong(format!("there is no table `{table}`")))?;
        let (from, is_table, blocks, bytes): (String, bool, i64, i64) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        let ranges = if is_table { ranges(blocks.max(0) as u64, bytes.max(0) as u64) } else { Vec::new() };
        Ok(Self { from, ranges })
    }
}

/// Blocks of about [`RANGE_BYTES`] each; the last without an end, for what others append is invisible anyway.
fn ranges(blocks: u64, bytes: u64) -> Vec<Range<u64>> {
    let per_range = (blocks * RANGE_BYTES).checked_div(bytes).unwrap_or(blocks).max(1);
    (0..blocks).step_by(per_range as usize).map(|start| start..(start + per_range).min(blocks)).collect()
}

/// The statement and what it answers.
struct CopyOut {
    select: String,
    names: Vec<String>,
    types: Vec<Type>,
    is_id: Vec<bool>,
}

impl CopyOut {
    async fn of(
        server: &Server,
        leader: &Client,
        relation: &Relation,
        wanted: &Wanted,
    ) -> Result<Self, ForeignError> {
        let from = &relation.from;
        let statement = leader.prepare(&format!("SELECT * FROM {from} LIMIT 0")).await;
        let statement = statement.map_err(|error| server.failed(&error, 0))?;
        let there: Vec<(&str, &Type)> =
            statement.columns().iter().map(|column| (column.name(), column.type_())).collect();
        let columns = columns_of(&server.uri, &there, wanted)?;
        let quoted = columns.iter().map(|(name, _)| format!("\"{}\"", name.replace('"', "\"\"")));
        Ok(Self {
            select: format!("SELECT {} FROM {from}", quoted.collect::<Vec<_>>().join(", ")),
            is_id: columns.iter().map(|(name, _)| wanted.id.as_ref() == Some(name)).collect(),
            types: columns.iter().map(|(_, data_type)| data_type.clone()).collect(),
            names: columns.into_iter().map(|(name, _)| name).collect(),
        })
    }

    async fn whole(
        &self,
        server: &Server,
        client: &Client,
        stage: &mut Stage<'_>,
    ) -> Result<(), ForeignError> {
        self.rows(server, client, &self.select, &mut |batch, bytes| stage.push(&batch, bytes)).await
    }

    async fn range(
        &self,
        server: &Server,
        client: &Client,
        Range { start, end }: Range<u64>,
    ) -> Result<Vec<(RecordBatch, u64)>, ForeignError> {
        let select = format!("{} WHERE ctid >= '({start},0)' AND ctid < '({end},0)'", self.select);
        let mut batches = Vec::new();
        let mut keep = |batch, bytes| {
            batches.push((batch, bytes));
            Ok(())
        };
        self.rows(server, client, &select, &mut keep).await?;
        Ok(batches)
    }

    async fn rows(
        &self,
        server: &Server,
        client: &Client,
        select: &str,
        each: &mut (dyn FnMut(RecordBatch, u64) -> Result<(), ForeignError> + Send),
    ) -> Result<(), ForeignError> {
        let copy = client.copy_out(&format!("COPY ({select}) TO STDOUT (FORMAT binary)")).await;
        let copy = copy.map_err(|error| server.failed(&error, 0))?;
        let mut rows = std::pin::pin!(BinaryCopyOutStream::new(copy, &self.types));
        let mut builders = self.builders();
        let (mut count, mut bytes, mut done) = (0, 0, 0);
        while let Some(row) = rows.next().await {
            let row = row.map_err(|error| server.failed(&error, done))?;
            for (at, builder) in builders.iter_mut().enumerate() {
                let Raw(value) = row.try_get(at).map_err(|error| server.interrupted(done, &error))?;
                builder.push(value).map_err(|what| ForeignError::Value {
                    uri: server.uri.clone(),
                    row: done,
                    column: self.names[at].clone(),
                    what,
                })?;
                bytes += value.map_or(0, <[u8]>::len);
            }
            (count, done) = (count + 1, done + 1);
            if bytes > BATCH_BYTES || count == MAX_BATCH_ROWS {
                each(self.batch(&mut builders), bytes as u64)?;
                (count, bytes) = (0, 0);
            }
        }
        // A range of blocks may hold no row; a whole relation without any has no batch, and so no file.
        if count > 0 { each(self.batch(&mut builders), bytes as u64) } else { Ok(()) }
    }

    fn builders(&self) -> Vec<ColumnBuilder> {
        let of =
            |(data_type, &is_id)| ColumnBuilder::of(data_type, is_id).expect("columns_of refuses others");
        self.types.iter().zip(&self.is_id).map(of).collect()
    }

    fn batch(&self, builders: &mut [ColumnBuilder]) -> RecordBatch {
        let columns = self.names.iter().zip(builders).map(|(name, builder)| (name, builder.finish(), true));
        RecordBatch::try_from_iter_with_nullable(columns).expect("columns of as many rows")
    }
}

/// A value's bytes as they come; `None` for NULL.
struct Raw<'a>(Option<&'a [u8]>);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Raw(Some(raw)))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Raw(None))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// tokio_postgres says "db error" and has the rest as a cause.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let why = cause.to_string();
        if !text.contains(&why) {
            text = format!("{text}: {why}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_each_block_once() {
        assert_eq!(ranges(0, 0), []);
        assert_eq!(ranges(1, 8192).len(), 1);
        assert_eq!(ranges(3, 3 * (RANGE_BYTES + 1)), [0..1, 1..2, 2..3]);
        // 100 rows a block, 4 KiB each out of line.
        let many = ranges(10_000, 10_000 * 400_000);
        assert!(many.windows(2).all(|pair| pair[0].end == pair[1].start), "{many:?}");
        assert_eq!((many[0].start, many.last().unwrap().end), (0, 10_000));
        assert_eq!(many[0].end, RANGE_BYTES / 400_000);
    }
}

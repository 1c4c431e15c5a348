//! Ways to make a request and its response durable under its reqid: a plain file, SQLite, redb, our journal.
//!
//! All get the same items and commit the same batches. A commit returns when the batch survives a power cut.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::{Result, ensure};
use redb::{Database, TableDefinition};
use rusqlite::Connection;
use zeek_cluster_agent::api::event::{Dialect, Request, Response, Result as ApiResult, Source};
use zeek_cluster_agent::api::ids::{ReqId, Seq};
use zeek_cluster_agent::api::time::Timestamp;
use zeek_cluster_agent::journal::entry::{Answer, Digest, Entry, Numbered, Packed, Sealed, digest};
use zeek_cluster_agent::journal::{Journal, Options};

/// A request, and what it is answered.
#[derive(Debug, Clone)]
pub struct Item {
    pub reqid: String,
    request: Request,
    digest: Digest,
    source: Source,
    response: Response,
}

impl Item {
    /// What a controller sends most: a welcome.
    pub fn welcome(reqid: String) -> Self {
        let request = Request::AgentWelcome {};
        let id = ReqId::new(reqid.as_str()).expect("a bench's reqid is short");
        let answer = ApiResult {
            reqid: id.clone(),
            success: true,
            instance: Some("agent-1".to_owned()),
            data: None,
            error: None,
            node: None,
        };
        Self {
            reqid,
            response: Response { event: request.response_event().to_owned(), reqid: id.clone(), results: vec![answer] },
            digest: digest(&request),
            request,
            source: Source { transport: "control".to_owned(), peer: "uid=0 pid=4242".to_owned() },
        }
    }

    fn entry(&self) -> Entry {
        Entry::RequestAnswered {
            reqid: self.response.reqid.clone(),
            request: Packed(self.request.clone()),
            digest: self.digest,
            dialect: Dialect::Management,
            source: self.source.clone(),
            response: Answer::Kept(self.response.clone()),
        }
    }

    /// Both as bytes, for stores that know nothing of entries.
    fn bytes(&self) -> Result<(Vec<u8>, Vec<u8>)> {
        let request = (&self.reqid, &self.request, &self.digest, Dialect::Management, &self.source);
        Ok((rmp_serde::to_vec(&request)?, rmp_serde::to_vec(&self.response)?))
    }
}

/// One way of storing.
pub trait Store {
    /// Durable when it returns.
    fn commit(&mut self, items: &[Item]) -> Result<()>;
}

/// What is compared, by name.
pub const STORES: [&str; 5] = ["raw append, each synced", "raw group commit", "SQLite WAL FULL", "redb", "our journal"];

pub fn open(name: &str, dir: &Path) -> Result<Box<dyn Store + Send>> {
    std::fs::create_dir_all(dir)?;
    Ok(match name {
        "raw append, each synced" => Box::new(Raw { file: append(dir)?, each: true }),
        "raw group commit" => Box::new(Raw { file: append(dir)?, each: false }),
        "SQLite WAL FULL" => Box::new(Sqlite::open(dir)?),
        "redb" => Box::new(Redb { database: Database::create(dir.join("redb"))?, next: 1 }),
        "our journal" => Box::new(Ours::open(dir)?),
        other => anyhow::bail!("no store is called {other:?}"),
    })
}

fn append(dir: &Path) -> Result<File> {
    Ok(OpenOptions::new().create(true).append(true).open(dir.join("raw"))?)
}

/// Records appended to a file, and fdatasync.
struct Raw {
    file: File,
    each: bool,
}

impl Store for Raw {
    fn commit(&mut self, items: &[Item]) -> Result<()> {
        let mut record = Vec::new();
        for item in items {
            let (request, response) = item.bytes()?;
            record.extend_from_slice(item.reqid.as_bytes());
            record.extend_from_slice(&request);
            record.extend_from_slice(&response);
            if self.each {
                self.file.write_all(&record)?;
                self.file.sync_data()?;
                record.clear();
            }
        }
        if !self.each {
            self.file.write_all(&record)?;
            self.file.sync_data()?;
        }
        Ok(())
    }
}

struct Sqlite {
    connection: Connection,
}

impl Sqlite {
    fn open(dir: &Path) -> Result<Self> {
        let connection = Connection::open(dir.join("sqlite"))?;
        let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        ensure!(mode == "wal", "SQLite's journal mode is {mode}");
        connection.execute_batch(
            "PRAGMA synchronous = FULL;
             CREATE TABLE IF NOT EXISTS requests (
                 seq INTEGER PRIMARY KEY, reqid TEXT NOT NULL UNIQUE, request BLOB NOT NULL, response BLOB NOT NULL);",
        )?;
        Ok(Self { connection })
    }
}

impl Store for Sqlite {
    fn commit(&mut self, items: &[Item]) -> Result<()> {
        let transaction = self.connection.transaction()?;
        {
            let mut insert =
                transaction.prepare("INSERT INTO requests (reqid, request, response) VALUES (?1, ?2, ?3)")?;
            for item in items {
                let (request, response) = item.bytes()?;
                insert.execute((&item.reqid, &request, &response))?;
            }
        }
        Ok(transaction.commit()?)
    }
}

const BY_SEQ: TableDefinition<'_, u64, (&[u8], &[u8])> = TableDefinition::new("requests");
const BY_REQID: TableDefinition<'_, &str, u64> = TableDefinition::new("reqids");

struct Redb {
    database: Database,
    next: u64,
}

impl Store for Redb {
    fn commit(&mut self, items: &[Item]) -> Result<()> {
        // Its default durability, Immediate: the commit is synced.
        let transaction = self.database.begin_write()?;
        {
            let mut by_seq = transaction.open_table(BY_SEQ)?;
            let mut by_reqid = transaction.open_table(BY_REQID)?;
            for item in items {
                let (request, response) = item.bytes()?;
                by_seq.insert(self.next, (request.as_slice(), response.as_slice()))?;
                by_reqid.insert(item.reqid.as_str(), self.next)?;
                self.next += 1;
            }
        }
        Ok(transaction.commit()?)
    }
}

/// The journal without the agent around it: entries of request and outcome, the index rows, the effect's seal.
pub struct Ours {
    journal: Journal<()>,
    last: Seq,
    at: u64,
}

impl Ours {
    pub fn open(dir: &Path) -> Result<Self> {
        let options = Options { ballast_bytes: 0, request_floor: 0, fact_floor: 0, ..Options::default() };
        let opened = Journal::open(dir, &options)?;
        // 2026-11-22T08:31:00Z, then a millisecond for each entry.
        Ok(Self { journal: opened.journal, last: opened.recovered.last, at: 1_795_336_260_000_000 })
    }

    fn number(&mut self, entry: Entry) -> Numbered {
        self.last = self.last.next();
        self.at += 1000;
        Numbered { seq: self.last, at: Timestamp(self.at), entry }
    }
}

impl Store for Ours {
    fn commit(&mut self, items: &[Item]) -> Result<()> {
        for item in items {
            let answered = self.number(item.entry());
            let free = self.journal.stage(Sealed::new(self.last, vec![answered], vec![()]));
            ensure!(free.is_empty(), "an effect left before its entries were durable");
        }
        let free = self.journal.commit(Vec::new())?;
        ensure!(free.len() == items.len(), "{} effects for {} requests", free.len(), items.len());
        Ok(())
    }
}

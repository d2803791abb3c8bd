//! Object stores to test against, started by the tests: SeaweedFS and moto (S3), Azurite (Azure), and a fixture of Google's
//! API. The first three are installed by `install.sh`; where that fails a test that wants one says so and does nothing,
//! unless `CI` is set: then it fails.
#![allow(dead_code, reason = "each test uses a part of it")]

mod gcs;
pub mod http;
mod proxy;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use annvil::store::{IndexStore, Secret, StoreOptions};
pub use proxy::Proxy;

const BUCKET: &str = "annviltest";
const START: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    SeaweedFs,
    Moto,
    Azurite,
    Gcs,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::SeaweedFs, Kind::Moto, Kind::Azurite, Kind::Gcs];
}

/// A running store with an empty bucket; ends with this value.
pub struct Server {
    pub kind: Kind,
    pub port: u16,
    child: Option<Child>,
    folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Server {
    /// `None` where the server cannot be had.
    pub fn start(kind: Kind) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let (port, child) = match kind {
            Kind::Gcs => (gcs::start(BUCKET), None),
            _ => {
                let Some(installed) = installed() else {
                    assert!(std::env::var_os("CI").is_none(), "{kind:?} cannot be installed: see above");
                    eprintln!("SKIPPED: {kind:?} is not there and cannot be installed");
                    return None;
                };
                // A port that was free a moment ago may be taken when the server gets to it.
                (0..3)
                    .find_map(|_| started(kind, installed, folder.path()))
                    .map(|(port, child)| (port, Some(child)))
                    .unwrap_or_else(|| panic!("{kind:?} does not start"))
            }
        };
        let server = Self { kind, port, child, folder };
        server.write_secrets();
        Some(server)
    }

    /// The root that indexes of a test lie below.
    pub fn root(&self, name: &str) -> String {
        let scheme = match self.kind {
            Kind::SeaweedFs | Kind::Moto => "s3",
            Kind::Azurite => "az",
            Kind::Gcs => "gs",
        };
        format!("{scheme}://{BUCKET}/{name}")
    }

    pub fn options(&self) -> StoreOptions {
        self.options_at(self.port)
    }

    /// The same by way of a proxy at `port`.
    pub fn options_at(&self, port: u16) -> StoreOptions {
        let secret = |name: &str| Some(Secret::File(self.folder.path().join(name)));
        let account = match self.kind {
            Kind::Azurite => "/devstoreaccount1",
            _ => "",
        };
        let plain = StoreOptions {
            endpoint: Some(format!("http://127.0.0.1:{port}{account}")),
            allow_http: Some(true),
            ..Default::default()
        };
        match self.kind {
            Kind::SeaweedFs | Kind::Moto => StoreOptions {
                region: Some("us-east-1".into()),
                access_key_id: secret("access_key_id"),
                secret_access_key: secret("secret_access_key"),
                ..plain
            },
            Kind::Azurite => StoreOptions {
                account: Some("devstoreaccount1".into()),
                account_key: secret("account_key"),
                ..plain
            },
            Kind::Gcs => StoreOptions { service_account: secret("service_account"), ..plain },
        }
    }

    /// What says the same to a process.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let options = self.options();
        let endpoint = options.endpoint.unwrap();
        let read = |name: &str| std::fs::read_to_string(self.folder.path().join(name)).unwrap();
        match self.kind {
            Kind::SeaweedFs | Kind::Moto => vec![
                ("AWS_ENDPOINT_URL", endpoint),
                ("AWS_ALLOW_HTTP", "true".into()),
                ("AWS_ACCESS_KEY_ID", read("access_key_id")),
                ("AWS_SECRET_ACCESS_KEY", read("secret_access_key")),
            ],
            Kind::Azurite => vec![
                ("AZURE_ENDPOINT", endpoint),
                ("AZURE_ALLOW_HTTP", "true".into()),
                ("AZURE_STORAGE_ACCOUNT_NAME", "devstoreaccount1".into()),
                ("AZURE_STORAGE_ACCOUNT_KEY", read("account_key")),
            ],
            Kind::Gcs => vec![
                ("GOOGLE_BASE_URL", endpoint),
                ("GOOGLE_ALLOW_HTTP", "true".into()),
                ("GOOGLE_SERVICE_ACCOUNT_KEY", read("service_account")),
            ],
        }
    }

    pub fn index(&self, root: &str, name: &str) -> IndexStore {
        IndexStore::named_with(&self.root(root), name, &self.options()).unwrap()
    }

    fn write_secrets(&self) {
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        // A service account as object_store takes it of an emulator: nobody is asked for a token.
        let service_account = serde_json::json!({
            "gcs_base_url": endpoint, "disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": "",
        });
        for (name, secret) in [
            ("access_key_id", "annvil".into()),
            ("secret_access_key", "annvil-secret".into()),
            ("account_key", AZURITE_KEY.to_string()),
            ("service_account", service_account.to_string()),
        ] {
            std::fs::write(self.folder.path().join(name), secret).unwrap();
        }
    }
}

/// Published by Microsoft for the emulator.
const AZURITE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Where the servers are; installs them the first time.
fn installed() -> Option<&'static Path> {
    static INSTALLED: OnceLock<Option<PathBuf>> = OnceLock::new();
    let install = || {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/install.sh");
        let output = Command::new("sh").arg(script).stderr(Stdio::inherit()).output().ok()?;
        let folder = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| PathBuf::from(folder.trim()))
    };
    INSTALLED.get_or_init(install).as_deref()
}

/// Starts a server and makes its bucket, which is how one knows that it serves.
fn started(kind: Kind, installed: &Path, folder: &Path) -> Option<(u16, Child)> {
    let port = free_port();
    let python = |name: &str| installed.join("python/bin").join(name);
    let data = folder.join("data");
    std::fs::create_dir_all(&data).unwrap();
    let mut command = match kind {
        Kind::SeaweedFs => {
            let config = folder.join("s3.json");
            // Whoever says no name makes the bucket.
            let identities = serde_json::json!({ "identities": [
                { "name": "annvil", "actions": ["Admin", "Read", "Write", "List"],
                  "credentials": [{ "accessKey": "annvil", "secretKey": "annvil-secret" }] },
                { "name": "anonymous", "actions": ["Admin"] },
            ] });
            std::fs::write(&config, identities.to_string()).unwrap();
            let mut command = Command::new(python("weed"));
            command.args(["server", "-s3", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-volume.max=20"]);
            command.args(["-master.volumeSizeLimitMB=256", &format!("-s3.port={port}")]);
            for service in ["master", "volume", "filer"] {
                command.arg(format!("-{service}.port={}", free_port()));
            }
            // What listens on ports of its own beside, and what calls home.
            command.args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]);
            command.arg(format!("-dir={}", data.display())).arg(format!("-s3.config={}", config.display()));
            command
        }
        Kind::Moto => {
            // Not its script, which names the folder that it was installed in first.
            let mut command = Command::new(python("python"));
            command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
            command
        }
        Kind::Azurite => {
            let mut command = Command::new("node");
            command.arg(installed.join("node_modules/azurite/dist/src/blob/main.js"));
            command.args(["--silent", "--blobHost", "127.0.0.1", "--skipApiVersionCheck"]);
            command.args(["--blobPort", &port.to_string()]).arg("--location").arg(&data);
            command
        }
        Kind::Gcs => unreachable!("runs in this process"),
    };
    let log = std::fs::File::create(folder.join("log")).unwrap();
    let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let start = Instant::now();
    while start.elapsed() < START {
        if make_bucket(kind, port) {
            return Some((port, child));
        }
        if child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let _ = child.kill();
    let _ = child.wait();
    eprintln!("{kind:?}: {}", std::fs::read_to_string(folder.join("log")).unwrap_or_default());
    None
}

fn make_bucket(kind: Kind, port: u16) -> bool {
    if kind == Kind::Azurite {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/create_container.js");
        let made = Command::new("node").arg(script).args([&port.to_string(), BUCKET]).status();
        return made.is_ok_and(|status| status.success());
    }
    let made = http::ask(port, &http::request("PUT", &format!("/{BUCKET}")));
    made.is_ok_and(|answer| answer.first.contains(" 200 "))
}

/// From 20,000 to 30,000, never the same twice, and the port 10,000 above is free as well: SeaweedFS takes that too.
fn free_port() -> u16 {
    static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = 20_000 + listener.local_addr().unwrap().port() % 10_000;
        let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if is_free(port) && is_free(port + 10_000) && TAKEN.lock().unwrap().insert(port) {
            return port;
        }
    }
}

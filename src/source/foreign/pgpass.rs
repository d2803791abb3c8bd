//! libpq's password file: a line `host:port:database:user:password` each, `*` for any, `\` before a `:` or `\` that is meant
//! (postgresql.org/docs/current/libpq-pgpass.html).

use std::path::{Path, PathBuf};

/// What a password is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Login<'a> {
    pub host: &'a str,
    pub port: u16,
    pub database: &'a str,
    pub user: &'a str,
}

/// `PGPASSFILE`, else `~/.pgpass`.
pub(super) fn file() -> Option<PathBuf> {
    let named = std::env::var_os("PGPASSFILE").map(PathBuf::from);
    named.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".pgpass")))
}

/// The password of the first line that fits.
///
/// # Errors
/// A file that is there and cannot be read, or that others can read.
pub(super) fn password(file: &Path, login: Login<'_>) -> Result<Option<String>, String> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot read the password file `{}`: {error}", file.display())),
    };
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(file).map(|file| file.permissions().mode()).unwrap_or_default();
        if mode & 0o077 != 0 {
            return Err(format!(
                "the password file `{}` can be read by others: `chmod 600` it",
                file.display()
            ));
        }
    }
    let port = login.port.to_string();
    let asked = [login.host, &port, login.database, login.user];
    let fits = |fields: &Vec<String>| {
        fields.len() == 5 && fields.iter().zip(asked).all(|(field, asked)| field == "*" || field == asked)
    };
    let mut lines = text.lines().filter(|line| !line.starts_with('#')).map(fields);
    Ok(lines.find(fits).map(|mut fields| fields.remove(4)))
}

fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            // The rest of the line is the password, but for what is escaped.
            ':' if fields.len() < 5 => fields.push(String::new()),
            '\\' => fields.last_mut().expect("one at least").extend(chars.next()),
            c => fields.last_mut().expect("one at least").push(c),
        }
    }
    fields
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_first_line_that_fits_counts_and_a_file_for_all_to_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pgpass");
        let login = Login { host: "db", port: 5432, database: "kimera", user: "reader" };
        assert_eq!(password(&file, login), Ok(None));
        let text = "# db:5432:kimera:reader:no\nother:*:*:*:no\ndb:5432:kimera:writer:no\nshort:line\n\
                    *:*:kimera:reader:a\\:b\\\\c:d\n*:*:*:*:last\n";
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(password(&file, login).unwrap_err().contains("chmod 600"));
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(password(&file, login).unwrap().as_deref(), Some("a:b\\c:d"));
        assert_eq!(password(&file, Login { user: "x", ..login }).unwrap().as_deref(), Some("last"));
    }
}

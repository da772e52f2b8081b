//! The route of a container's processes.

use axum::Json;
use axum::extract::{Path, State};
use sampan_base::Timestamp;
use sampan_docker_api::container::TopAnswer;
use sampan_engine::Engine;

use super::Query;
use super::error::Answer;

pub(crate) async fn top(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    query: Query,
) -> Answer<Json<TopAnswer>> {
    let arguments = query.get("ps_args").map_or("", String::as_str).trim();
    if !matches!(arguments, "" | "-ef") {
        let arguments = arguments.split_whitespace().map(str::to_owned).collect();
        let (titles, processes) = engine.top_by_ps(&id, arguments).await?;
        return Ok(Json(TopAnswer { processes, titles }));
    }
    let rows = engine.top(&id).await?;
    let clock = HostClock::read();
    let processes = rows.iter().map(|row| clock.ps_row(row)).collect();
    let titles = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"].map(str::to_owned).to_vec();
    Ok(Json(TopAnswer { processes, titles }))
}

/// What turns clock ticks into times of day.
struct HostClock {
    ticks_per_second: u64,
    booted: i64,
}

impl HostClock {
    fn read() -> HostClock {
        let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec;
        HostClock {
            ticks_per_second: rustix::param::clock_ticks_per_second().max(1),
            booted: Timestamp::now().unix_seconds() - uptime,
        }
    }

    /// As `ps -ef` prints it.
    fn ps_row(&self, row: &sampan_engine::ProcessRow) -> Vec<String> {
        let cpu = row.cpu_ticks / self.ticks_per_second;
        let started = self.booted + i64::try_from(row.start_ticks / self.ticks_per_second).unwrap_or(0);
        let lived = u64::try_from((Timestamp::now().unix_seconds() - started).max(1)).unwrap_or(1);
        let at = Timestamp::from_unix(started, 0).map(|t| t.to_string()).unwrap_or_default();
        let terminal = match (row.terminal >> 8 & 0xfff, row.terminal & 0xff | row.terminal >> 12 & 0xfff00) {
            (0, _) => "?".to_owned(),
            (136..=143, minor) => format!("pts/{minor}"),
            (4, minor) => format!("tty{minor}"),
            (major, minor) => format!("{major}:{minor}"),
        };
        vec![
            user_name(row.uid),
            row.pid.to_string(),
            row.parent.to_string(),
            (cpu * 100 / lived).to_string(),
            at.get(11..16).unwrap_or("?").to_owned(),
            terminal,
            format!("{:02}:{:02}:{:02}", cpu / 3600, cpu / 60 % 60, cpu % 60),
            row.command.clone(),
        ]
    }
}

/// A user's name on the host, as ps shows it, or the number.
fn user_name(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let found = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    found.unwrap_or_else(|| uid.to_string())
}

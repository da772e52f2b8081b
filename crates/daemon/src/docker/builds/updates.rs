//! A build's events as `sampan build` asks for them.

use std::time::Duration;

use sampan_docker_api::build::BuildUpdate;
use sampan_engine::build::{BuildEvent, Stream};

pub(super) fn update(event: &BuildEvent<'_>) -> Option<BuildUpdate> {
    Some(match event {
        BuildEvent::Planned { stages } => BuildUpdate::Planned { stages: stages.to_vec() },
        BuildEvent::StepStarted { step, place, text } => BuildUpdate::Started {
            step: step.0,
            stage: place.stage,
            name: place.name.map(str::to_owned),
            position: place.position,
            of: place.of,
            line: place.line,
            text: (*text).to_owned(),
        },
        BuildEvent::Cached { step } => BuildUpdate::Cached { step: step.0 },
        BuildEvent::Output { step, stream, bytes } => BuildUpdate::Output {
            step: step.0,
            stderr: *stream == Stream::Stderr,
            text: String::from_utf8_lossy(bytes).into_owned(),
        },
        BuildEvent::Transfer { step, transfer } => BuildUpdate::Transfer {
            step: step.0,
            blob: transfer.blob.to_string(),
            current: transfer.current,
            total: transfer.total,
        },
        BuildEvent::StepDone { step, took, layer, .. } => {
            BuildUpdate::Done { step: step.0, nanoseconds: nanoseconds(*took), layer: *layer }
        }
        BuildEvent::StepFailed { step, took, given_up } => {
            BuildUpdate::Failed { step: step.0, nanoseconds: nanoseconds(*took), given_up: *given_up }
        }
        BuildEvent::Warning { line, text } => BuildUpdate::Warning { line: *line, text: (*text).to_owned() },
        BuildEvent::Failed { excerpt } => BuildUpdate::Excerpt { text: (*excerpt).to_owned() },
        BuildEvent::StageDone { .. } | BuildEvent::Built { .. } => return None,
    })
}

fn nanoseconds(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}

//! What a build tells while it goes on.

use std::time::Duration;

use sampan_base::Digest;
use sampan_image::Image;

use crate::run::{Stream, Transfer};

/// Names a step in one build. Steps of several stages go on at once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StepId(pub usize);

/// Where a step stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place<'a> {
    /// Its stage, counted from 0 among those of [`BuildEvent::Planned`].
    pub stage: usize,
    /// The stage's name, if it has one.
    pub name: Option<&'a str>,
    /// The step's number in the stage, from 1; `FROM` is 1.
    pub position: usize,
    /// How many steps the stage has. It grows when the base image has triggers.
    pub of: usize,
    /// Its line in the Dockerfile; 0: none.
    pub line: usize,
}

/// What happens in a build, as it happens. Events of different steps come from different threads, and of one step in
/// order.
#[derive(Clone, PartialEq, Debug)]
pub enum BuildEvent<'a> {
    /// The stages that will be built: how many steps each has.
    Planned {
        /// In the order of the Dockerfile.
        stages: &'a [usize],
    },
    /// Something in the Dockerfile that may not be meant.
    Warning {
        /// The line, from 1; 0: none.
        line: usize,
        /// What.
        text: &'a str,
    },
    /// A step starts.
    StepStarted {
        /// Its name from here on.
        step: StepId,
        /// Where it stands.
        place: Place<'a>,
        /// The instruction as written.
        text: &'a str,
    },
    /// The step comes from the cache.
    Cached {
        /// Which.
        step: StepId,
    },
    /// Something is fetched for the step.
    Transfer {
        /// Which step.
        step: StepId,
        /// How far it is.
        transfer: Transfer<'a>,
    },
    /// The step's command wrote something.
    Output {
        /// Which step.
        step: StepId,
        /// Where to.
        stream: Stream,
        /// What.
        bytes: &'a [u8],
    },
    /// The step is done.
    StepDone {
        /// Which.
        step: StepId,
        /// How long it took.
        took: Duration,
        /// Bytes of the files of the layer that it made, if it made one.
        layer: Option<u64>,
        /// Names what the image is after this step: equal steps have equal ones.
        state: &'a Digest,
    },
    /// The step failed; the build ends with the reason.
    StepFailed {
        /// Which.
        step: StepId,
        /// How long it took.
        took: Duration,
        /// It was given up, because another one failed or nobody wants the build any more.
        given_up: bool,
    },
    /// The last step of a stage is done.
    StageDone {
        /// As in [`Place::stage`].
        stage: usize,
    },
    /// The build failed, and this is where: the lines of the Dockerfile, marked, with their neighbours.
    Failed {
        /// Several lines.
        excerpt: &'a str,
    },
    /// The image is there.
    Built {
        /// It.
        image: &'a Image,
    },
}

//! Numbers, on request: `cargo test --release -p sampan-build --test it speed -- --ignored --nocapture`.

use std::time::Instant;

use sampan_build::{BuildEvent, BuildOptions, Context};

use crate::support::{FileSpec, Test, tar};

#[test]
#[ignore = "prints numbers"]
fn speed() {
    let test = Test::new();
    let names: Vec<String> = (0..2000).map(|i| format!("src/d{}/f{i}", i % 50)).collect();
    let content = "some text\n".repeat(400);
    let mut files: Vec<FileSpec<'_>> =
        vec![("Dockerfile", "FROM busybox\nCOPY . /src\nRUN ls /src > /list\nCMD [\"x\"]")];
    files.extend(names.iter().map(|n| (n.as_str(), content.as_str())));
    let tar = tar(&files, 1);
    for round in ["cold", "unchanged", "unchanged"] {
        let start = Instant::now();
        let context = Context::from_tar(&mut &*tar, &test.dir.path().join("spool")).unwrap();
        println!("{round}: context {:?}", start.elapsed());
        let all = Instant::now();
        let solver = test.solver.as_ref().unwrap();
        solver
            .build(&context, &BuildOptions::default(), &test.runner, &|event| {
                if let BuildEvent::StepDone { step, took, .. } = event {
                    println!("  {step:?} {took:?}");
                }
            })
            .unwrap();
        println!("  all {:?}", all.elapsed());
    }
}

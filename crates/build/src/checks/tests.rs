//! Each rule: what it finds, and what is nearly the same and fine.

use super::*;

fn warnings(text: &str, build_args: &[(&str, &str)], target: Option<&str>) -> Vec<Warning> {
    let file = Dockerfile::parse(text).unwrap();
    let build_args: BTreeMap<String, String> =
        build_args.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let platform = "linux/amd64".parse().unwrap();
    let ignore = Ignore::parse("*.md\nsecret\n!keep.md").unwrap();
    let base = |name: &str| {
        let platform = match name {
            "a" | "java" => "linux/amd64",
            "arm" => "linux/arm64",
            _ => return None,
        };
        let env =
            if name == "java" { vec![("JAVA_HOME".to_owned(), "/java".to_owned())] } else { Vec::new() };
        Some(BaseFacts { env, shell: false, platform: platform.parse().unwrap() })
    };
    let inputs = Inputs {
        build_args: &build_args,
        target,
        host: &platform,
        platform: &platform,
        ignore: Some(&ignore),
        base: &base,
    };
    check(&file, &Config::of(&file, &build_args).unwrap(), &inputs)
}

fn expect(text: &str, expected: &[&str]) {
    let shown: Vec<String> = warnings(text, &[], None).iter().map(ToString::to_string).collect();
    assert_eq!(shown, expected, "{text}");
}

#[test]
fn casing() {
    expect(
        "FROM a AS Base\nFROM a AS base2",
        &["StageNameCasing: Stage name 'Base' should be lowercase (line 1)"],
    );
    expect("FROM a as x", &["FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)"]);
    expect("from a as x\nrun y", &[]);
    expect(
        "FROM a\nRUN x\nrun y",
        &[
            "ConsistentInstructionCasing: Command 'run' should match the case of the command majority (uppercase) (line 3)",
        ],
    );
    expect(
        "from a\nrun x\nRun y",
        &[
            "ConsistentInstructionCasing: Command 'Run' should match the case of the command majority (lowercase) (line 3)",
        ],
    );
    // The one above the first FROM is not counted.
    expect("arg x\nFROM a\nRUN x", &[]);
}

#[test]
fn stage_names() {
    expect(
        "FROM a AS x\nFROM a AS y\nFROM a AS x",
        &["DuplicateStageName: Duplicate stage name \"x\", stage names should be unique (line 3)"],
    );
    expect(
        "FROM a AS scratch\nFROM a AS scratch2",
        &[
            "ReservedStageName: Stage name should not use the same name as reserved stage \"scratch\" (line 1)",
        ],
    );
}

#[test]
fn continuations() {
    expect("FROM a\nRUN x \\\n\n y", &["NoEmptyContinuation: Empty continuation line (line 4)"]);
    expect("FROM a\nRUN x \\\n # c\n y", &[]);
}

#[test]
fn old_forms() {
    expect(
        "FROM a\nMAINTAINER me",
        &["MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 2)"],
    );
    expect(
        "FROM a\nENV a b c=d\nLABEL x y",
        &[
            "LegacyKeyValueFormat: \"ENV key=value\" should be used instead of legacy \"ENV key value\" format (line 2)",
            "LegacyKeyValueFormat: \"LABEL key=value\" should be used instead of legacy \"LABEL key value\" format (line 3)",
        ],
    );
    expect("FROM a\nENV a=b\nLABEL \"x y\"=z a=\"b c\"", &[]);
}

#[test]
fn commands() {
    let json = |name: &str, line| {
        format!(
            "JSONArgsRecommended: JSON arguments recommended for {name} to prevent unintended behavior related to OS signals (line {line})"
        )
    };
    expect("FROM a\nCMD x\nENTRYPOINT y", &[&json("CMD", 2), &json("ENTRYPOINT", 3)]);
    expect("FROM a\nCMD [\"x\"]\nHEALTHCHECK CMD x", &[]);
    expect("FROM a\nSHELL [\"/bin/bash\", \"-c\"]\nCMD x", &[]);
    expect(
        "FROM a AS b\nCMD [\"x\"]\nCMD [\"y\"]\nFROM b\nCMD [\"z\"]",
        &[
            "MultipleInstructionsDisallowed: Multiple CMD instructions should not be used in the same stage because only the last one will be used (line 2)",
        ],
    );
}

#[test]
fn froms() {
    expect(
        "ARG VARIANT=x\nFROM ${VARIAN}y",
        &["UndefinedArgInFrom: FROM argument 'VARIAN' is not declared (did you mean VARIANT?) (line 2)"],
    );
    expect("ARG VARIANT=x\nFROM ${VARIANT}y", &[]);
    expect("FROM x$TARGETARCH", &[]);
    let empty = |name| {
        format!(
            "InvalidDefaultArgInFrom: Default value for ARG {name} results in empty or invalid base image name (line 2)"
        )
    };
    expect("ARG TAG\nFROM a:$TAG", &[&empty("a:$TAG")]);
    expect("ARG TAG=1\nFROM a:$TAG", &[]);
    expect("ARG TAG\nFROM a${TAG:+:}$TAG", &[]);
    expect("ARG TAG\nFROM a:${TAG:-1}", &[]);
    expect(
        "FROM --platform=$TARGETPLATFORM a",
        &[
            "RedundantTargetPlatform: Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior (line 1)",
        ],
    );
    expect("FROM --platform=$BUILDPLATFORM a", &[]);
    expect(
        "FROM --platform=linux/arm64 a",
        &[
            "FromPlatformFlagConstDisallowed: FROM --platform flag should not use constant value \"linux/arm64\" (line 1)",
        ],
    );
    expect("FROM --platform=linux/arm64 a AS build_arm64", &[]);
    expect(
        "FROM arm",
        &[
            "InvalidBaseImagePlatform: Base image arm was pulled with platform \"linux/arm64\", expected \"linux/amd64\" for current build (line 1)",
        ],
    );
}

#[test]
fn variables() {
    expect(
        "FROM a\nENV PATH=$PAHT:/app\nCOPY $x ${y:-z} /",
        &[
            "UndefinedVar: Usage of undefined variable '$PAHT' (did you mean $PATH?) (line 2)",
            "UndefinedVar: Usage of undefined variable '$x' (line 3)",
            "UndefinedVar: Usage of undefined variable '$y' (line 3)",
        ],
    );
    expect("FROM a\nARG x\nENV y=1\nCOPY $x $y \\$z '$z' /\nRUN $z\nCMD [\"$z\"]", &[]);
    expect("FROM java AS b\nFROM b\nWORKDIR $JAVA_HOME", &[]);
    // Nobody knows what that image has.
    expect(
        "FROM unknown\nWORKDIR $JAVA_HOME",
        &[
            "WorkdirRelativePath: Relative workdir \"\" can have unexpected results if the base image changes (line 2)",
        ],
    );
    expect("ARG x=1\nFROM a\nLABEL l=$x", &["UndefinedVar: Usage of undefined variable '$x' (line 3)"]);
    expect(
        "FROM a\nCOPY <<E /\n$x\nE\nCOPY <<'E' /\n$x\nE",
        &["UndefinedVar: Usage of undefined variable '$x' (line 2)"],
    );
}

#[test]
fn work_directories() {
    expect(
        "FROM a\nWORKDIR app\nWORKDIR b",
        &[
            "WorkdirRelativePath: Relative workdir \"app\" can have unexpected results if the base image changes (line 2)",
        ],
    );
    expect("FROM a AS b\nWORKDIR /app\nFROM b\nWORKDIR b", &[]);
}

#[test]
fn secrets() {
    expect(
        "FROM a\nARG GITHUB_TOKEN\nENV db_Password=x",
        &[
            "SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ARG \"GITHUB_TOKEN\") (line 2)",
            "SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ENV \"db_Password\") (line 3)",
        ],
    );
    expect("FROM a\nARG TOKENIZER KEYBOARD PUBLIC_KEY PASSWORD_FILE AUTH_VERSION", &[]);
}

#[test]
fn ports() {
    expect(
        "FROM a\nEXPOSE 80/TCP 127.0.0.1:81:81 82:82",
        &[
            "ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found '127.0.0.1:81:81' (line 2)",
            "ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found '82:82' (line 2)",
            "ExposeProtoCasing: Defined protocol '80/TCP' in EXPOSE instruction should be lowercase (line 2)",
        ],
    );
    expect("FROM a\nEXPOSE 80/tcp 81 82-84/udp", &[]);
}

#[test]
fn experimental_rules_are_asked_for() {
    let file = "FROM a\nCOPY b.md /\nADD ./secret /\nCOPY keep.md x /\nCOPY --from=a secret /";
    expect(file, &[]);
    expect(
        &format!("# check=experimental=CopyIgnoredFile\n{file}"),
        &[
            "CopyIgnoredFile: Attempting to Copy file \"b.md\" that is excluded by .dockerignore (line 3)",
            "CopyIgnoredFile: Attempting to Add file \"./secret\" that is excluded by .dockerignore (line 4)",
        ],
    );
    let file =
        "# no such\nARG x\n# x is it\nARG x y\n# a comment\n\nFROM a AS b\n# about\nARG x y\n# c\nRUN z";
    expect(file, &[]);
    expect(
        &format!("# check=experimental=all\n{file}"),
        &[
            "InvalidDefinitionDescription: Comment for ARG should follow the format: `# x <description>` (line 3)",
            "InvalidDefinitionDescription: Comment for ARG should follow the format: `# <arg_key> <description>` (line 10)",
        ],
    );
}

#[test]
fn rules_are_skipped() {
    let file = "FROM a as x\nMAINTAINER y";
    expect(&format!("# check=skip=all\n{file}"), &[]);
    expect(&format!("# check=skip = FromAsCasing, MaintainerDeprecated; error=true\n{file}"), &[]);
    let given = [("BUILDKIT_DOCKERFILE_CHECK", "skip=FromAsCasing")];
    let shown = warnings(&format!("# check=skip=all\n{file}"), &given, None);
    assert_eq!(shown.iter().map(|w| w.rule).collect::<Vec<_>>(), [Rule::MaintainerDeprecated]);
    assert!(Config::parse("skip=all;error=true").unwrap().error);
    for (bad, option) in [("x=1", "x=1"), ("skip=all;error", "error"), ("error=maybe", "error=maybe")] {
        assert_eq!(Config::parse(bad).unwrap_err().option, option);
    }
}

#[test]
fn only_what_a_target_needs_is_looked_into() {
    let file = "FROM a AS x\nCMD y\nFROM a AS z\nCMD y\nFROM x AS t\nRUN y";
    let lines = |target| warnings(file, &[], target).iter().map(|w| w.line).collect::<Vec<_>>();
    assert_eq!(lines(None), [2, 4]);
    assert_eq!(lines(Some("t")), [2]);
}

#[test]
fn a_warning_shows_its_lines() {
    let text = "FROM a\nCMD x \\\n  y\nRUN z\n";
    let warning = &warnings(text, &[], None)[0];
    assert_eq!(
        warning.shown("Dockerfile", text),
        "WARNING: JSONArgsRecommended\n\
         JSON arguments recommended for CMD to prevent unintended behavior related to OS signals\n\
         Dockerfile:2\n--------------------\n   1 |     FROM a\n   2 | >>> CMD x \\\n   3 | >>>   y\n   4 |     RUN z\n\
         --------------------\n"
    );
}

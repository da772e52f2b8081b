//! Save and load, with skopeo as the judge of what we write and the maker of what we read.

use sampan_base::Class;
use sampan_image::{Expected, Image};

use crate::support::{TestStore, tar, tree};

fn two_layers(test: &TestStore) -> Image {
    let base = test.import("base:1", "a file = 1\nd dir 700 3:4\nd/x file = x");
    let lease = test.lease();
    let upper = tar("d/.wh.x file =\nb file = 2");
    let layer = test.add_layer(&mut &*upper, base.chain_id(), &Expected::default(), &lease).unwrap();
    let layers: Vec<_> = base.layers.iter().cloned().chain([layer]).collect();
    let mut config = base.config.clone();
    config.config.cmd = Some(vec!["sh".into()]);
    config.config.healthcheck = Some(Default::default());
    test.create_image(config, &layers, &["127.0.0.1:5000/web:v1".parse().unwrap()]).unwrap()
}

fn contents(test: &TestStore, image: &Image) -> String {
    let lease = test.lease();
    let view = test.view(image.chain_id(), &lease).unwrap();
    tree(view.rootfs())
}

#[test]
fn what_is_saved_loads_as_the_same_images() {
    let test = TestStore::new();
    let image = two_layers(&test);
    let mut archive = Vec::new();
    test.save(&["base:1", "127.0.0.1:5000/web:v1"], None, &mut archive).unwrap();
    let other = TestStore::new();
    let loaded = other.load(&mut &*archive, None).unwrap();
    assert_eq!(loaded.len(), 2);
    assert_eq!(
        (&loaded[1].id, &loaded[1].names, &loaded[1].config),
        (&image.id, &image.names, &image.config)
    );
    assert_eq!(contents(&other, &loaded[1]), contents(&test, &image));
    assert_eq!(loaded[1].layers, image.layers);
    // By id: without names; and loading again changes nothing.
    let mut archive = Vec::new();
    test.save(&[image.id.short()], None, &mut archive).unwrap();
    let third = TestStore::new();
    assert!(third.load(&mut &*archive, None).unwrap()[0].names.is_empty());
    let files = third.files();
    third.load(&mut &*archive, None).unwrap();
    assert_eq!(third.files(), files);
    assert_eq!(test.save(&["nothing"], None, &mut Vec::new()).unwrap_err().class(), Class::NotFound);
}

#[test]
fn skopeo_reads_what_we_save_and_we_load_what_it_writes() {
    let test = TestStore::new();
    let image = two_layers(&test);
    let path = |name: &str| test.dir.path().join(name).display().to_string();
    let mut file = std::fs::File::create(path("ours.tar")).unwrap();
    test.save(&["127.0.0.1:5000/web:v1"], None, &mut file).unwrap();
    let formats = [
        (
            format!("docker-archive:{}", path("ours.tar")),
            format!("docker-archive:{}:web:x", path("a.tar")),
            path("a.tar"),
        ),
        (
            format!("oci-archive:{}", path("ours.tar")),
            format!("oci-archive:{}", path("b.tar")),
            path("b.tar"),
        ),
    ];
    for (from, to, written) in formats {
        let run = std::process::Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet", "--dest-compress", &from, &to])
            .output()
            .unwrap();
        assert!(run.status.success(), "{from}: {}", String::from_utf8_lossy(&run.stderr));
        let other = TestStore::new();
        let loaded = other.load(&mut std::fs::File::open(&written).unwrap(), None).unwrap();
        assert_eq!(loaded[0].config.rootfs, image.config.rootfs, "{from}");
        assert_eq!(contents(&other, &loaded[0]), contents(&test, &image));
    }
}

#[test]
fn the_content_store_is_an_oci_layout() {
    let test = TestStore::new();
    let image = two_layers(&test);
    let inspect = |name: &str| {
        let at = format!("oci:{}/content:{name}", test.root().display());
        let run = std::process::Command::new("skopeo").args(["inspect", "--raw", &at]).output().unwrap();
        run.status.success().then(|| sampan_base::Digest::of(&run.stdout))
    };
    assert_eq!(inspect("127.0.0.1:5000/web:v1"), Some(image.manifest.clone()));
    assert!(inspect("docker.io/library/base:1").is_some());
    test.tag(&image.id, &"other".parse().unwrap()).unwrap();
    assert_eq!(inspect("docker.io/library/other:latest"), Some(image.manifest.clone()));
    test.remove(&image.id).unwrap();
    assert_eq!(inspect("docker.io/library/other:latest"), None);
}

#[test]
fn archives_that_lie_are_refused_and_leave_nothing() {
    let test = TestStore::new();
    let image = two_layers(&test);
    let mut archive = Vec::new();
    test.save(&[image.id.short()], None, &mut archive).unwrap();
    let other = TestStore::new();
    let refuse = |bytes: &[u8], why: &str| {
        let error = other.load(&mut &*bytes, None).unwrap_err();
        let text = sampan_base::chain(&error);
        assert!(text.contains(why), "{text}");
        other.gc().unwrap();
        assert!(other.files().is_empty(), "{:?}", other.files());
    };
    refuse(&tar("a file = 1"), "holds no saved images");
    refuse(&archive[..archive.len() / 2], "cut off");
    refuse(&tar("manifest.json file = nonsense"), "manifest.json");
    refuse(&tar(r#"manifest.json file = [{"Config":"../../../etc/passwd","Layers":[]}]"#), "no file");
    refuse(&tar("manifest.json link = manifest.json"), "holds no saved images");
    refuse(
        &tar(
            "c file = {\"rootfs\":{\"diff_ids\":[]}}\nl file = x\nmanifest.json file = [{\"Config\":\"c\",\"Layers\":[\"l\"]}]",
        ),
        "0 diff ids for 1 layers",
    );
    // The layer's content is not what its diff id says.
    let other_layer = tar("zzz file = 1");
    let config = image.config.clone();
    let listing = format!(
        "c file = {}\nl dir\nmanifest.json file = [{{\"Config\":\"c\",\"Layers\":[\"l1\",\"l2\"]}}]",
        serde_json::to_string(&config).unwrap()
    );
    let mut bytes = tar(&listing);
    bytes.truncate(bytes.len() - 1024);
    bytes.extend(wrap("l1", &other_layer));
    bytes.truncate(bytes.len() - 1024);
    bytes.extend(wrap("l2", &other_layer));
    refuse(&bytes, "has the digest");
}

/// One file as an archive of its own.
fn wrap(path: &str, content: &[u8]) -> Vec<u8> {
    let (mut member, _) = crate::support::entry(&format!("{path} file ="));
    member.kind = sampan_image::tar::Kind::File { size: content.len() as u64, pieces: None };
    let mut writer = sampan_image::tar::Writer::new(Vec::new());
    writer.append(&member, &mut &*content).unwrap();
    writer.finish().unwrap()
}

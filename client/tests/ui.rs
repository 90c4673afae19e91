//! Mistakes that do not compile, each with the text that its author reads. A text that changes is looked at, then written
//! anew by `TRYBUILD=overwrite cargo test -p holdfast --test ui`.

#[test]
fn each_mistake_is_refused_with_its_text() {
    let cases = trybuild::TestCases::new();
    let programs = std::fs::read_dir("tests/ui").expect("tests run in their crate's folder");
    let paths = programs.map(|it| it.expect("a folder can be listed").path());
    let programs = paths.filter(|path| path.extension().is_some_and(|it| it == "rs"));
    assert_eq!(programs.count(), 12, "one program for each guard");
    cases.compile_fail("tests/ui/*.rs");
}

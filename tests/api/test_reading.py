"""The first fit fixes how data are read. The oracle: a score computed by hand on the user's own rows is distfa's."""

import logging

import numpy as np
import pytest
import torch
from runs import blobs
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import distfa
from distfa.errors import DataError, RunDirError, SpecError
from distfa.run.disk.weights import reading_of

pandas = pytest.importorskip("pandas")


def perceptron(inputs=64, outputs=10):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, outputs))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def trained(home, net, *given, **settings):
    settings = {"engine": "serial", "epochs": 3, "optimizer": {"lr": 0.01}, **settings}
    keys = {key: settings.pop(key) for key in ("target",) if key in settings}
    run_dir = home / str(len(list(home.iterdir())))
    trainer = distfa.Trainer(net, run_dir=str(run_dir), **settings)
    trainer.fit(*given, **keys)
    return trainer


@pytest.fixture(scope="module")
def digits():
    return distfa.data.load("digits")


@pytest.fixture(scope="module")
def read(home):
    """A trainer that was fitted on data whose samples are normalised."""
    return trained(home, perceptron(), "digits")


def by_hand(trainer, inputs, y):
    """Accuracy and loss in plain torch."""
    with torch.no_grad():
        found = trainer.model.eval()(torch.as_tensor(inputs, dtype=torch.float32))
    target = torch.as_tensor(y)
    return (found.argmax(1) == target).float().mean().item(), nn.functional.cross_entropy(found, target).item()


@pytest.fixture(scope="module")
def wanted(read, digits):
    return by_hand(read, (digits.test_x - digits.mean) / digits.std, digits.test_y)


def assert_scores(found, wanted):
    assert found.accuracy == pytest.approx(wanted[0], abs=1e-6)
    assert found.loss == pytest.approx(wanted[1], rel=1e-4)


class Samples(Dataset):
    """Samples of x (and y), made one by one."""

    def __init__(self, x, y=None):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index] if self.y is None else (self.x[index], int(self.y[index]))


class Made(Samples):
    """The same with quantities."""

    def __getitem__(self, index):
        return self.x[index], float(self.y[index])


class Counted(Samples):
    """The same, and how often one was made."""

    count = 0

    def __getitem__(self, index):
        self.count += 1
        return super().__getitem__(index)


# -- the same rows in every form ------------------------------------------------------------------

FORMS = {
    "a name": lambda d: "digits",
    "a data set": lambda d: d,
    "bytes": lambda d: (d.test_x, d.test_y),
    "bytes in a tensor": lambda d: (torch.from_numpy(d.test_x), torch.from_numpy(d.test_y)),
    "float64": lambda d: (d.test_x.astype(float), d.test_y),
    "bfloat16": lambda d: (torch.from_numpy(d.test_x).bfloat16(), d.test_y.tolist()),
    "integers": lambda d: (d.test_x.astype(np.int64), d.test_y),
    "nested lists": lambda d: (d.test_x.tolist(), d.test_y.tolist()),
    "objects": lambda d: (d.test_x.astype(object), d.test_y.astype(object)),
    "images": lambda d: (d.test_x.reshape(-1, 1, 8, 8), d.test_y),
    "images with their channel last": lambda d: (d.test_x.reshape(-1, 8, 8, 1), d.test_y),
    "images without a channel": lambda d: (d.test_x.reshape(-1, 8, 8), d.test_y),
    "one-hot labels": lambda d: (d.test_x, np.eye(10)[d.test_y]),
    "one-hot labels, integers": lambda d: (d.test_x, torch.nn.functional.one_hot(torch.tensor(d.test_y))),
    "labels in a column": lambda d: (d.test_x, d.test_y[:, None].astype(np.uint8)),
    "labels as floats": lambda d: (d.test_x, d.test_y.astype(np.float32)),
    "a torch data set": lambda d: Samples(d.test_x, d.test_y),
    "a loader": lambda d: DataLoader(Samples(d.test_x, d.test_y), batch_size=7),
    "a tensor data set": lambda d: TensorDataset(torch.from_numpy(d.test_x), torch.from_numpy(d.test_y)),
    "a loader of tensors": lambda d: DataLoader(
        TensorDataset(torch.from_numpy(d.test_x), torch.from_numpy(d.test_y)), batch_size=50
    ),
    "batches": lambda d: ((d.test_x[at : at + 9], d.test_y[at : at + 9]) for at in range(0, len(d.test_x), 9)),
    "a table": lambda d: pandas.DataFrame(d.test_x).assign(label=d.test_y),
    "a dictionary": lambda d: {"image": d.test_x, "label": d.test_y},
    "frames": lambda d: (pandas.DataFrame(d.test_x), pandas.Series(d.test_y)),
    "normalised by hand": lambda d: ((d.test_x - d.mean) / d.std, d.test_y),
    "normalised by hand, in a torch data set": lambda d: Samples(
        torch.from_numpy((d.test_x - d.mean) / d.std).float(), d.test_y
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_evaluate_reads_every_form_as_the_first_fit_read_its_data(form, read, digits, wanted):
    assert_scores(read.evaluate(FORMS[form](digits)), wanted)


@pytest.mark.parametrize("form", FORMS)
def test_predict_reads_every_form_with_or_without_targets(form, read, digits, wanted):
    given = FORMS[form](digits)
    assert (read.predict(given).argmax(1).numpy() == digits.test_y).mean() == pytest.approx(wanted[0])
    if isinstance(given, tuple):
        alone = read.predict(given[0])
        assert (alone.argmax(1).numpy() == digits.test_y).mean() == pytest.approx(wanted[0])


def test_predict_takes_samples_without_targets_from_torch(read, digits):
    x, expected = torch.from_numpy(digits.test_x), read.predict(digits.test_x)
    for given in (Samples(x), TensorDataset(x), DataLoader(TensorDataset(x), batch_size=7), [*x], iter(x.split(9))):
        assert torch.equal(read.predict(given), expected)


def test_a_run_scored_by_its_directory_reads_as_the_run_did(read, digits, wanted):
    for form in ("bytes", "a table", "a loader", "normalised by hand"):
        found = distfa.evaluate(read.result.run_dir, arrays=FORMS[form](digits), model=read.model)
        assert_scores(found, wanted)


def test_the_outputs_of_a_run_are_those_of_its_model_for_samples_in_every_form(read, digits):
    for form in ("bytes", "a table", "a loader", "normalised by hand", "one-hot labels"):
        found = distfa.predict(read.result.run_dir, FORMS[form](digits))
        assert torch.allclose(found.outputs, read.predict(digits), atol=1e-4)
        assert found.answers == found.outputs.argmax(1).tolist()


def test_a_run_whose_model_was_an_object_asks_for_it(home):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    trainer = trained(home, net, "digits", epochs=1)
    with pytest.raises(SpecError, match=r"or pass it: distfa.evaluate\(run_dir, model=model\)"):
        distfa.predict(trainer.result.run_dir, distfa.data.load("digits"))
    found = distfa.predict(trainer.result.run_dir, distfa.data.load("digits"), model=net)
    assert torch.allclose(found.outputs, trainer.predict("digits"), atol=1e-4)


def test_the_reading_goes_with_the_weights(read, digits, wanted, home):
    file = read.save(home / "weights.safetensors")
    for source in (file, read.result.run_dir):
        other = distfa.Trainer(perceptron(), engine="serial").load(source)
        assert other.reading == read.reading
        assert_scores(other.evaluate((digits.test_x, digits.test_y)), wanted)
        assert torch.equal(other.predict(digits.test_x), read.predict(digits.test_x))


def test_a_reading_that_is_damaged_is_refused_and_one_of_a_later_version_is_read(read):
    kept = read.reading.as_dict()
    assert reading_of({"inputs": {**kept, "more": 1}}) == read.reading
    assert reading_of({}) is None
    for damaged in ({"mean": [0.0]}, {**kept, "seen": 3}, "text"):
        with pytest.raises(RunDirError, match="the run.s record of its data is damaged"):
            reading_of({"inputs": damaged})


def test_to_tell_raw_from_normalised_no_sample_is_made_again(home, digits):
    made = Counted(torch.from_numpy((digits.train_x[:50] - digits.mean) / digits.std).float(), digits.train_y[:50])
    trainer = trained(home, perceptron(), "digits", epochs=1)
    trainer._dataset(made, None, None)
    assert made.count == 50


def test_a_reset_forgets_the_reading(home, digits):
    trainer = trained(home, perceptron(), "digits", epochs=1)
    assert trainer.reset().reading is None


# -- raw or normalised --------------------------------------------------------------------------------


def test_samples_that_were_normalised_by_hand_are_not_normalised_again_and_that_is_said(read, digits, caplog):
    with caplog.at_level(logging.WARNING):
        read.predict((digits.test_x - digits.mean) / digits.std)
    assert "they are already normalised" in caplog.text
    caplog.clear()
    read.predict(digits.test_x.astype(np.float32))
    assert not caplog.text


@pytest.mark.parametrize("make", [lambda x: x / 16.0, lambda x: np.full((3, 64), 0.7), lambda x: x / 8 - 1])
def test_numbers_that_could_be_raw_or_normalised_are_refused_until_it_is_said(make, read, digits):
    x = make(digits.test_x)
    with pytest.raises(DataError, match=r"do not show which; pass normalised=False or normalised=True"):
        read.predict(x)
    assert torch.allclose(
        read.predict(x, normalised=False), read.predict((x - digits.mean) / digits.std, normalised=True), atol=1e-4
    )


def test_one_sample_at_a_time_is_read_as_all(read, digits):
    together = read.predict(digits.test_x)
    dark = np.zeros((1, 64), np.uint8)
    assert torch.allclose(read.predict(dark), read.predict((dark - digits.mean) / digits.std), atol=1e-5)
    for row in range(20):
        assert torch.allclose(read.predict(digits.test_x[row : row + 1].astype(float)), together[row], atol=1e-5)
        hand = ((digits.test_x - digits.mean) / digits.std)[row : row + 1]
        assert torch.allclose(read.predict(hand), together[row], atol=1e-5)


def test_bytes_for_floats_and_floats_for_bytes_are_refused(home, digits):
    raw, share = digits.train_x, (digits.train_x / 16).astype(np.float32)
    on_bytes = trained(home, perceptron(), (raw, digits.train_y), epochs=1)
    with pytest.raises(DataError, match=r"float64 values up to 1, but the training samples were uint8 values up to 16"):
        on_bytes.predict(raw / 16.0)
    on_floats = trained(home, perceptron(), (share, digits.train_y), epochs=1)
    with pytest.raises(DataError, match="uint8 values up to 16, but the training samples were float32 values up to"):
        on_floats.evaluate((raw, digits.train_y))
    with pytest.raises(DataError, match="pass them in the same units"):
        trained(home, perceptron(), (raw, digits.train_y), (share, digits.train_y))


def test_after_arrays_normalised_by_hand_a_named_set_is_normalised_too(home, digits):
    hand = ((digits.train_x - digits.mean) / digits.std, digits.train_y)
    trainer = trained(home, perceptron(), hand)
    assert_scores(
        trainer.evaluate("digits"), by_hand(trainer, (digits.test_x - digits.mean) / digits.std, digits.test_y)
    )


# -- a second fit ----------------------------------------------------------------------------------------


def test_a_second_fit_reads_raw_and_normalised_arrays_as_the_first_read_its_data(home, digits):
    given = [(digits.train_x, digits.train_y), ((digits.train_x - digits.mean) / digits.std, digits.train_y)]
    found = []
    for again in ("digits", *given):
        trainer = trained(home, perceptron(), "digits", epochs=1)
        first = trainer.reading
        trainer.fit(again)
        found.append(trainer.evaluate("digits"))
        assert trainer.reading == first
        assert distfa.Trainer(perceptron()).load(trainer.result.run_dir).reading == first
    assert all(score.loss == pytest.approx(found[0].loss, rel=1e-3) for score in found)
    trainer.fit(given[1], given[0])
    assert trainer.result.test_loss == pytest.approx(trainer.evaluate(given[1]).loss, rel=1e-4)


@pytest.fixture(scope="module")
def animals():
    x, y = blobs(12, 5, 200)
    names = np.array(["ant", "bee", "cat", "dog", "eel"])
    return x.astype(np.float32), names[y], y


def test_text_labels_keep_their_numbers(home, animals):
    x, names, y = animals
    trainer = trained(home, perceptron(12, 5), (x, names), epochs=10)
    assert trainer.reading.class_names == ("ant", "bee", "cat", "dog", "eel")
    some = y >= 2
    wanted = by_hand(trainer, x[some], y[some])
    assert wanted[0] > 0.9
    for labels in (names[some], names[some].astype(object), y[some], pandas.Series(names[some]).astype("category")):
        assert_scores(trainer.evaluate((x[some], labels)), wanted)
    before = by_hand(trainer, x, y)
    trainer.fit((x[some], names[some]))
    assert by_hand(trainer, x[some], y[some])[1] <= before[1]
    assert trainer.reading.class_names == ("ant", "bee", "cat", "dog", "eel")
    with pytest.raises(DataError, match=r"has the label 'zebra' at row 0, .* first fit: ant, bee, cat, dog, eel"):
        trainer.evaluate((x, np.where(y == y[0], "zebra", names)))
    with pytest.raises(DataError, match="has the label 'zebra'"):
        trainer.fit((x, np.where(y == y[0], "zebra", names)))


def test_numbers_for_labels_that_were_numbers_in_text_are_doubtful(home, animals):
    x, _, y = animals
    trainer = trained(home, perceptron(12, 5), (x, (y + 1).astype(str)), epochs=1)
    with pytest.raises(DataError, match="labels are numbers, but those of the first fit were the text 1, 2, 3, 4, 5"):
        trainer.evaluate((x, y + 1 - 1))
    other = trained(home, perceptron(12, 5), (x, y), epochs=1)
    with pytest.raises(DataError, match=r"labels are text .* were numbers 0 \.\. 4"):
        other.evaluate((x, y.astype(str)))


def test_numbers_in_objects_are_not_put_in_the_order_of_text(home):
    x, y = blobs(12, 11, 300)
    a, b = (trained(home, perceptron(12, 11), (x, labels), epochs=1) for labels in (y, y.astype(object)))
    assert all(torch.equal(p, q) for p, q in zip(a.model.parameters(), b.model.parameters(), strict=True))


def test_a_categorical_keeps_the_order_of_its_classes(home, animals):
    x, names, y = animals
    order = ["eel", "dog", "cat", "bee", "ant", "none"]
    column = pandas.Categorical(names, categories=order)
    trainer = trained(home, perceptron(12, 5), (x, pandas.Series(column)), epochs=10)
    assert trainer.reading.class_names == tuple(order[:5])
    assert_scores(trainer.evaluate((x, names)), by_hand(trainer, x, 4 - y))


def test_a_missing_label_is_no_class(home, animals):
    x, names, _ = animals
    labels = names.astype(object)
    labels[3] = None
    with pytest.raises(DataError, match="has no value at row 3; drop such rows"):
        trained(home, perceptron(12, 6), (x, labels))
    with pytest.raises(DataError, match="column 'c' has no value at row 1"):
        trained(home, perceptron(2, 5), pandas.DataFrame({"c": pandas.array([True, None]), "d": [1, 2], "y": [0, 1]}))


# -- tables ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(animals):
    x, names, _ = animals
    return pandas.DataFrame(x, columns=list("abcdefghijkl")).assign(animal=names)


@pytest.fixture(scope="module")
def on_table(home, table):
    return trained(home, perceptron(12, 5), table, epochs=10, target="animal")


def test_columns_are_taken_by_name(on_table, table, animals):
    x, _, y = animals
    wanted = by_hand(on_table, x, y)
    assert wanted[0] > 0.9
    shuffled = table[list(table.columns[::-1])]
    inputs = shuffled.drop(columns="animal")
    for given in (table, shuffled, dict(shuffled.items()), (inputs, table["animal"]), (x, y)):
        assert_scores(on_table.evaluate(given), wanted)
    for given in (shuffled, inputs, dict(inputs.items()), x, inputs.convert_dtypes()):
        assert torch.equal(on_table.predict(given), on_table.predict(x))


def test_columns_are_taken_by_name_in_the_test_table_of_a_fit_and_in_a_second_fit(home, table, animals):
    x, _, y = animals
    shuffled = table[list(table.columns[::-1])]
    trainer = trained(home, perceptron(12, 5), table, shuffled, epochs=5, target="animal")
    assert trainer.result.test_accuracy == pytest.approx(by_hand(trainer, x, y)[0])
    before = by_hand(trainer, x, y)[1]
    trainer.fit(shuffled)
    assert by_hand(trainer, x, y)[1] < before


def test_a_pair_of_frames_has_columns_too(home, table, animals):
    x, names, y = animals
    inputs = table.drop(columns="animal")
    trainer = trained(home, perceptron(12, 5), (inputs, table["animal"]), epochs=5)
    assert_scores(trainer.evaluate((inputs[list(inputs.columns[::-1])], names)), by_hand(trainer, x, y))


def test_a_column_too_many_or_too_few_is_refused_by_name(on_table, table):
    with pytest.raises(DataError, match=r"the table has no column 'b', which the model was trained on; it has a, c, "):
        on_table.predict(table.drop(columns="b"))
    with pytest.raises(DataError, match="the table has the column 'id', which the model was not trained on"):
        on_table.evaluate(table.assign(id=1))
    with pytest.raises(DataError, match="several columns named a"):
        on_table.predict(pandas.concat([table, table[["a"]]], axis=1))
    with pytest.raises(DataError, match=r"samples have shape \(11,\), but the model was trained on \(12,\)"):
        on_table.predict(table.drop(columns=["animal", "b"]).to_numpy())


# -- tokens, targets, layout -------------------------------------------------------------------------


def words():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(48, 3))


def test_tokens_from_a_torch_data_set_are_tokens(home):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 20, (90, 6)), rng.integers(0, 3, 90)
    a = trained(home, words(), (x, y), epochs=2)
    loader = DataLoader(Samples(torch.from_numpy(x), y), batch_size=8)
    b = trained(home, words(), loader, loader, epochs=2)
    assert a.reading.tokens == b.reading.tokens == 20
    assert a.evaluate((x, y)) == a.evaluate(loader)
    found = by_hand_tokens(b, x, y)
    assert b.evaluate(Samples(x, y)).loss == pytest.approx(found, rel=1e-5)
    assert b.result.test_loss == pytest.approx(found, rel=1e-4)
    table = pandas.DataFrame(x).assign(label=y)
    c = trained(home, words(), table, epochs=2)
    assert a.evaluate((x, y)) == c.evaluate((x, y)) == c.evaluate(table)
    with pytest.raises(DataError, match=r"has token 20 at row .*; tokens must be 0 \.\. 19"):
        trained(home, words(), Samples(x + 1, y), epochs=1)
    with pytest.raises(DataError, match=r"samples have shape \(5,\), but the model was trained on \(6,\)"):
        b.predict(x[:, :5])


def by_hand_tokens(trainer, x, y):
    with torch.no_grad():
        return nn.functional.cross_entropy(trainer.model.eval()(torch.from_numpy(x)), torch.from_numpy(y)).item()


def test_quantities_stay_quantities(home, animals):
    x, _, _ = animals
    y = x[:, :1] * 3
    trainer = trained(home, perceptron(12, 1), (x, y), loss="mse")
    hand = ((trainer.predict(x).numpy() - y) ** 2).mean()
    for given in ((x, y), (x, y[:, 0]), DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(y)))):
        assert trainer.evaluate(given).rmse == pytest.approx(hand**0.5, rel=1e-4)
    assert trainer.evaluate((x, np.ones(len(x), np.int64))).rmse > 0
    with pytest.raises(DataError, match=r"has shape \(200, 2\); targets for 1 outputs must be \(n, outputs\)"):
        trainer.evaluate((x, np.ones((len(x), 2))))
    with pytest.raises(DataError, match=r"trained on float targets \(n, 1\)"):
        trainer.evaluate(distfa.data.from_arrays((x, np.ones((len(x), 2)))))


def test_one_quantity_per_sample_needs_no_axis(home, animals):
    x, _, _ = animals
    y = x[:, 0] * 3
    table = pandas.DataFrame(x, columns=list("abcdefghijkl")).assign(price=y)
    given = ((x, y), (table.drop(columns="price"), table["price"]), Made(x, y))
    on = [trained(home, perceptron(12, 1), (x, y[:, None]), loss="mse", epochs=1)]
    on += [trained(home, perceptron(12, 1), table, loss="mse", epochs=1, target="price")]
    on += [trained(home, perceptron(12, 1), one, one, loss="mse", epochs=1) for one in given]
    wanted = on[0].evaluate((x, y[:, None]))
    for trainer in on:
        assert trainer.evaluate((x, y)) == wanted
    assert on[2].result.test_loss == pytest.approx(wanted.loss, rel=1e-5)


def test_images_are_turned_to_where_the_first_fit_had_their_channels(home):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 3, 5, 6)).astype(np.float32), rng.integers(0, 2, 30)
    last = x.transpose(0, 2, 3, 1)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(90, 2))
    trainer = trained(home, flat, (last, y), (x, y), epochs=1)
    assert trainer.result.test_loss == pytest.approx(by_hand(trainer, last.copy(), y)[1], rel=1e-4)
    assert torch.equal(trainer.predict(x), trainer.predict(last))
    conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
    for train, test in ((x, last), (last, x)):
        trainer = trained(home, conv, (train, y), (test, y), epochs=1)
        assert trainer.result.test_loss == pytest.approx(by_hand(trainer, x, y)[1], rel=1e-4)
    with pytest.raises(DataError, match=r"samples have shape \(6, 3, 5\), but the model"):
        trainer.predict(np.zeros((2, 6, 3, 5), np.float32))  # no channels at its end: another size
    with pytest.raises(DataError, match=r"samples have shape \(3, 7, 6\), but the model was trained on \(3, 5, 6\)"):
        trainer.predict(np.zeros((2, 3, 7, 6), np.float32))


def test_labels_for_quantities_and_quantities_for_labels_are_refused(read, digits):
    with pytest.raises(DataError, match=r"trained on labels; pass labels, integers \(n,\), or one-hot rows"):
        read.evaluate((digits.test_x, np.full((360, 10), 0.1)))
    with pytest.raises(DataError, match=r"label 10 at row 0; labels must be 0 \.\. 9"):
        read.evaluate((digits.test_x, np.where(digits.test_y == digits.test_y[0], 10, digits.test_y)))


# -- where a reading comes from ------------------------------------------------------------------------


def test_a_run_is_scored_as_it_read_its_data_even_if_its_file_has_changed(tmp_path, digits):
    file, spec = tmp_path / "mine.npz", distfa.RunSpec()
    kept = {"train_x": digits.train_x, "train_y": digits.train_y, "test_x": digits.test_x, "test_y": digits.test_y}
    np.savez(file, **kept)
    trainer = distfa.Trainer(perceptron(), spec, engine="serial", epochs=1, run_dir=str(tmp_path / "run"))
    result = trainer.fit(distfa.data.load("npz", directory=file))
    np.savez(file, **{**kept, "train_x": np.maximum(digits.train_x, 3)})  # another mean and std
    found = distfa.evaluate(tmp_path / "run", model=trainer.model)
    assert (found.loss, found.accuracy) == pytest.approx((result.test_loss, result.test_accuracy))


def test_a_run_that_goes_on_reads_as_it_did_before(home, digits, tmp_path):
    class Ending(distfa.Callback):
        def on_step(self, at):
            if at.step == 60:
                raise KeyboardInterrupt

    hand = ((digits.train_x - digits.mean) / digits.std, digits.train_y)
    settings = {"engine": "serial", "epochs": 2, "run_dir": str(tmp_path / "run"), "checkpoint__seconds": 0}
    whole = trained(home, perceptron(), "digits", epochs=1)
    cut = distfa.Trainer(perceptron(), callbacks=Ending(), **settings).load(whole.result.run_dir)
    with pytest.raises(KeyboardInterrupt):
        cut.fit(hand)
    settings |= {"run_dir": None}
    other = distfa.Trainer(perceptron(), **settings).load(whole.result.run_dir)
    other.fit(hand, resume=cut.spec.run_dir + "-2")
    assert other.reading == whole.reading
    assert_scores(other.evaluate("digits"), by_hand(other, (digits.test_x - digits.mean) / digits.std, digits.test_y))


def test_samples_that_are_made_fix_a_reading_and_are_read_by_one(home, digits, wanted):
    few, y = digits.train_x[:200], digits.train_y[:200]
    made = Samples(torch.from_numpy(few), y)
    trainer = trained(home, perceptron(), made, epochs=1)
    assert trainer.reading.dtype == "uint8"
    assert trainer.reading.seen.largest == 16
    with pytest.raises(DataError, match="pass them in the same units"):
        trainer.predict(digits.test_x / 16.0)
    first = trained(home, perceptron(), "digits", epochs=1)
    hand = Samples(torch.from_numpy((few - digits.mean) / digits.std).float(), y)
    found = []
    for again in (made, hand):
        trainer = distfa.Trainer(perceptron(), engine="serial", epochs=1, run_dir=str(home / f"again{len(found)}"))
        trainer.load(first.result.run_dir).fit(again, "digits")
        found.append(trainer.evaluate("digits"))
    assert found[0].loss == pytest.approx(found[1].loss, rel=1e-3)
    assert found[0].loss < first.evaluate("digits").loss


def test_a_named_set_may_be_the_test_data_of_arrays(home, digits):
    hand = ((digits.train_x - digits.mean) / digits.std, digits.train_y)
    trainer = trained(home, perceptron(), hand, "digits", epochs=1)
    score = by_hand(trainer, (digits.test_x - digits.mean) / digits.std, digits.test_y)
    assert (trainer.result.test_accuracy, trainer.result.test_loss) == pytest.approx(score, rel=1e-4)


def test_a_data_set_without_test_samples_is_scored_on_those_it_has_and_that_is_said(read, digits, caplog):
    found = read.evaluate(distfa.data.from_arrays((digits.test_x, digits.test_y)))
    assert found.rows == 360
    assert "has no test samples: scoring its training samples instead" in caplog.text


def test_before_the_first_fit_a_data_set_is_read_as_it_says_and_arrays_as_they_are(digits):
    trainer = distfa.Trainer(perceptron())
    inputs = torch.from_numpy((digits.test_x - digits.mean) / digits.std).float()
    assert torch.allclose(trainer.predict("digits"), trainer.model(inputs), atol=1e-5)
    assert torch.allclose(trainer.predict(inputs), trainer.model(inputs), atol=1e-5)
    assert trainer.reading is None


def test_a_label_at_every_position(home):
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(20, 8), nn.ReLU(), nn.Linear(8, 20))
    x = rng.integers(0, 20, (60, 6))
    trainer = trained(home, net, (x, (x + 1) % 20), epochs=2)
    output = trainer.predict(x)
    wanted = nn.functional.cross_entropy(output.flatten(0, 1), torch.from_numpy((x + 1) % 20).flatten()).item()
    for given in ((x, (x + 1) % 20), DataLoader(TensorDataset(torch.tensor(x), torch.tensor((x + 1) % 20)))):
        assert trainer.evaluate(given).loss == pytest.approx(wanted, rel=1e-5)
    with pytest.raises(DataError, match="trained on 6 labels per sample"):
        trainer.evaluate((x, x[:, 0]))


def test_several_labels_of_a_sample_from_a_loader(home, animals):
    x, _, y = animals
    several = np.eye(5, dtype=np.int64)[y] | np.eye(5, dtype=np.int64)[(y + 1) % 5]
    loader = DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(several)), batch_size=16)
    trainer = trained(home, perceptron(12, 5), loader, loss="bce")
    right = ((trainer.predict(loader).numpy() > 0) == several).mean()
    assert trainer.evaluate(loader).accuracy == trainer.evaluate((x, several)).accuracy == pytest.approx(right)
    assert distfa.evaluate(trainer.result.run_dir, arrays=loader).accuracy == pytest.approx(right)
    assert distfa.predict(trainer.result.run_dir, x).answers == (trainer.predict(x) > 0).int().tolist()


def test_nothing_is_refused_by_name(read):
    with pytest.raises(DataError, match="there are no samples; pass at least one"):
        read.predict(np.zeros((0, 64)))
    with pytest.raises(DataError, match=r"for a single sample, x\[None\]"):
        read.predict(np.zeros(64))
    with pytest.raises(DataError, match="samples are a int; pass an array, a tensor, a table"):
        read.predict(3)

"""What is wrong is said in one line, before anything is trained or written."""
import io
import os
import shutil
import zipfile

import h5py
import numpy as np
import pytest

import variational_autoencoder as script
from conftest import command, finish, train

GREY = np.zeros((20, 28, 28), 'uint8')
FLOATS = np.full((20, 28, 28), 0.5)


def changed(images, value):
    images = images.copy()
    images[3, 4, 5] = value
    return images


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **{'x_train': GREY, 'x_test': GREY, **arrays})
    return buffer.getvalue()


def without(name):
    buffer = io.BytesIO()
    np.savez(buffer, **{other: GREY for other in ('x_train', 'x_test') if other != name})
    return buffer.getvalue()


def plain_npy():
    buffer = io.BytesIO()
    np.save(buffer, GREY)
    return buffer.getvalue()


def zip_of_text():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        archive.writestr('x_train.npy', 'no array')
        archive.writestr('x_test.npy', 'no array')
    return buffer.getvalue()


# What was wrong, what was found, what to do: each message must name these
BAD_DATA = {
    'text': (b'no archive', ['bad.npz', '.npz file', 'numpy.savez']),
    'empty file': (b'', ['bad.npz', '.npz file', 'numpy.savez']),
    'npy': (plain_npy(), ['bad.npz', '.npz file', 'numpy.savez']),
    'zip of text': (zip_of_text(), ['x_train', '()']),
    'cut short': (npz()[:9000], ['bad.npz', '.npz file', 'numpy.savez']),
    'damaged': (npz()[:5000] + b'damage' + npz()[5006:], ['bad.npz', '.npz file', 'numpy.savez']),
    'no x_train': (without('x_train'), ['no x_train']),
    'no x_test': (without('x_test'), ['no x_test']),
    'pickled': (npz(x_train=np.array([GREY, None], dtype=object)), ['bad.npz', 'allow_pickle']),
    'no images': (npz(x_test=GREY[:0]), ['x_test', '(0, 28, 28)']),
    'no pixels': (npz(x_test=GREY[:, :0]), ['x_test', '(20, 0, 28)']),
    'too few dimensions': (npz(x_train=GREY[0]), ['x_train', '(28, 28)', '(n, height, width)']),
    'too many dimensions': (npz(x_train=GREY[..., None, None]), ['x_train', '(20, 28, 28, 1, 1)']),
    'two channels': (npz(x_train=np.stack([GREY] * 2, 3)), ['x_train', '(20, 28, 28, 2)', '(n, height, width, 3)']),
    'five channels': (npz(x_train=np.stack([GREY] * 5, 3)), ['x_train', '(20, 28, 28, 5)']),
    'different shapes': (npz(x_test=GREY[:, 1:]), ['x_train', '(28, 28, 1)', 'x_test', '(27, 28, 1)']),
    'labels': (npz(y_test=np.zeros(19)), ['y_test', '(19,)', '(20,)']),
    'unscaled floats': (npz(x_train=changed(FLOATS, 254.5)), ['x_train', 'float64', '0.5 to 254.5', 'by 255']),
    'negative floats': (npz(x_train=changed(FLOATS, -0.25)), ['x_train', '-0.25 to 0.5', '[0, 1]']),
    'NaN': (npz(x_train=FLOATS, x_test=changed(FLOATS, np.nan)), ['x_test', 'float64', 'NaN']),
    'infinity': (npz(x_train=changed(FLOATS, np.inf)), ['x_train', '0.5 to inf']),
    'integers too large': (npz(x_train=changed(GREY.astype('int32'), 256)), ['x_train', 'int32', '0 to 256', '0 to 255']),
    'integers too small': (npz(x_train=changed(GREY.astype('int8'), -1)), ['x_train', 'int8', '-1 to 0', '0 to 255']),
    'words': (npz(x_train=np.full((20, 28, 28), 'white')), ['x_train', 'numbers']),
    'complex': (npz(x_train=GREY * 1j), ['x_train', 'complex128', 'numbers']),
    'one image': (npz(x_train=GREY[:1]), ['x_train', '(1)', '0.2']),
    'two images': (npz(x_train=GREY[:2]), ['x_train', '(2)', 'leaves 1 to train on']),
}

BAD_ARGUMENTS = {
    'no such file': (['--data', 'missing.npz'], ['missing.npz', '--data']),
    'negative epochs': (['--epochs', '-1'], ['epochs', '-1', 'from 0']),
    'epochs in words': (['--epochs', 'ten'], ['--epochs', "'ten'"]),
    'half an epoch': (['--epochs', '0.5'], ['--epochs', "'0.5'"]),
    'batch size': (['--batch-size', '0'], ['batch size', '0', 'from 2']),
    'batches of one': (['--batch-size', '1'], ['batch size', '1', 'at least 2', 'batch normalization']),
    'batch size in words': (['--batch-size', 'all'], ['--batch-size', "'all'"]),
    'seed': (['--seed', '-5'], ['seed', '-5', 'from 0 to 4294967295']),
    'large seed': (['--seed', '4294967296'], ['seed', '4294967296']),
    'seed in words': (['--seed', 'lucky'], ['--seed', "'lucky'"]),
    'architecture': (['--architecture', 'gan'], ['--architecture', "'gan'", 'original', 'dcgan-as-published']),
    'unknown flag': (['--latent-dim', '3'], ['--latent-dim']),
    'weights missing': (['--weights', 'missing.h5'], ['missing.h5', '--weights']),
}


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refuse(arguments, words):
    """main() refuses, naming all of these, and writes nothing."""
    before = sorted(os.listdir('.'))
    with pytest.raises(script.UserError) as error:
        script.main([*arguments, '--output-dir', 'out'])
    for word in words:
        assert word in str(error.value)
    assert sorted(os.listdir('.')) == before
    assert isinstance(error.value, ValueError)


@pytest.mark.parametrize('name', BAD_DATA)
def test_bad_data(name, tmp_path):
    content, words = BAD_DATA[name]
    (tmp_path / 'bad.npz').write_bytes(content)
    refuse(['--data', 'bad.npz'], words)


@pytest.mark.parametrize('name', BAD_ARGUMENTS)
def test_bad_arguments(name, digits):
    arguments, words = BAD_ARGUMENTS[name]
    refuse(['--data', str(digits), *arguments], words)


@pytest.mark.parametrize('setting, value, words', [
    ('latent_dim', 3, ['latent dimension', '3', '2']), ('no_epochs', -1, ['epochs', '-1']),
    ('no_epochs', 2.5, ['epochs', '2.5']), ('batch_size', 'many', ["'many'"])])
def test_bad_configuration(monkeypatch, digits, setting, value, words):
    monkeypatch.setattr(script, setting, value)
    refuse(['--data', str(digits)], words)


@pytest.fixture(scope='module')
def weights(digits, tmp_path_factory):
    """The weights of one epoch, and a folder for more of them."""
    folder = tmp_path_factory.mktemp('weights')
    train(digits, folder, 1)
    return folder / 'vae_weights.h5'


def test_weights_of_another_network(weights, digits):
    np.savez('wide.npz', x_train=GREY[:, :20], x_test=GREY[:, :20])
    theirs = 'original for images of 28 by 28 by 1'
    refuse(['--weights', str(weights), '--data', 'wide.npz'], [str(weights), theirs, 'original for images of 20 by 28 by 1'])
    refuse(['--weights', str(weights), '--data', str(digits), '--architecture', 'dcgan-as-published'],
           [theirs, 'dcgan-as-published for images of 28 by 28 by 1', '--architecture'])


def test_weights_of_changed_filters(monkeypatch, weights, digits):
    monkeypatch.setitem(script.architectures['original'], 'encoder_filters', [8, 12])
    refuse(['--weights', str(weights), '--data', str(digits)], [str(weights), 'do not fit'])


@pytest.mark.parametrize('name', ['text.h5', 'empty.h5', 'half.h5', 'short.h5', 'npz.h5'])
def test_broken_weights(name, weights, digits, tmp_path):
    content = weights.read_bytes()
    bad = {'text.h5': b'no weights', 'empty.h5': b'', 'half.h5': content[:len(content) // 2],
           'short.h5': content[:-1000], 'npz.h5': digits.read_bytes()}
    (tmp_path / name).write_bytes(bad[name])
    refuse(['--weights', name, '--data', str(digits)], [name, '--weights'])


def test_a_folder_is_no_weights(digits, tmp_path):
    refuse(['--weights', str(tmp_path), '--data', str(digits)], [str(tmp_path), '--weights'])


def test_names_of_weights(weights, digits):
    shutil.copy(weights, 'my.weights.h5')
    refuse(['--weights', 'my.weights.h5', '--data', str(digits)], ['my.weights.h5', 'rename'])
    shutil.copy(weights, 'renamed')  # any other name will do
    script.main(['--weights', 'renamed', '--data', str(digits), '--epochs', '0', '--output-dir', 'drawn'])
    assert {'decoded_digits.png', 'latent_space.png'} <= set(os.listdir('drawn'))


@pytest.mark.parametrize('number', [np.nan, np.inf])
@pytest.mark.parametrize('part', ['encoder', 'optimizer'])
def test_weights_that_are_not_finite(weights, digits, number, part):
    shutil.copy(weights, 'bad.h5')
    with h5py.File('bad.h5', 'a') as file:
        arrays = []
        file[part].visititems(lambda name, item: arrays.append(item) if getattr(item, 'ndim', 0) else None)
        arrays[0][0] = number
    refuse(['--weights', 'bad.h5', '--data', str(digits)], ['bad.h5', 'NaN or infinite'])


def test_optimizer_of_another_network(weights, digits):
    shutil.copy(weights, 'bad.h5')
    with h5py.File('bad.h5', 'a') as file:
        del file['optimizer/7']
        file['optimizer/7'] = np.zeros((3, 3))
    refuse(['--weights', 'bad.h5', '--data', str(digits)], ['bad.h5', 'optimizer'])


def test_bad_output_folder(digits, tmp_path):
    (tmp_path / 'file').write_text('kept')
    for folder in ('file', 'file/below', '/proc/nowhere'):
        with pytest.raises(script.UserError) as error:
            script.main(['--data', str(digits), '--output-dir', folder])
        assert folder in str(error.value) and '--output-dir' in str(error.value)
    assert (tmp_path / 'file').read_text() == 'kept'


def test_mnist_out_of_reach(monkeypatch, tmp_path):
    def fail():
        raise Exception('URL fetch failure on mnist.npz: None -- no network')
    monkeypatch.setattr(script.mnist, 'load_data', fail)
    monkeypatch.setattr(script, 'mnist_copy', tmp_path / 'mnist.npz')
    refuse([], ['no network', str(tmp_path / 'mnist.npz'), '--data'])


def test_damaged_copy_of_mnist(monkeypatch, tmp_path):
    monkeypatch.setattr(script, 'mnist_copy', tmp_path / 'mnist.npz')
    (tmp_path / 'mnist.npz').write_bytes(npz()[:9000])
    refuse([], [str(tmp_path / 'mnist.npz'), '.npz file'])


def test_on_the_command_line(tmp_path):
    (tmp_path / 'two  spaces.npz').write_bytes(plain_npy())
    status, out, err = finish(command('--data', 'two  spaces.npz', '--output-dir', 'out', cwd=tmp_path))
    assert (status, out) == (2, '')
    assert err.startswith('error: two  spaces.npz ') and len(err.splitlines()) == 1
    assert os.listdir(tmp_path) == ['two  spaces.npz']

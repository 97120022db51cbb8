"""What is wrong is said in one line, before anything is trained or written."""
import io
import os

import h5py
import numpy as np
import pytest

from conftest import REFERENCE, command, finish, page, script, untrained

GREY = np.random.default_rng(0).integers(0, 256, (20, 28, 28)).astype('uint8')
FLOATS = GREY / 255
TRAINED = REFERENCE / 'vae_weights.h5'

def npz(**arrays):
    buffer = io.BytesIO()
    arrays = {'x_train': GREY, 'x_test': GREY, **arrays}
    np.savez(buffer, **{name: array for name, array in arrays.items() if array is not None})
    return buffer.getvalue()

# What was wrong, what was found, what to do: each message must name these
BAD_DATA = {
    'text': (b'no archive', ['bad.npz', 'not a zip file', '.npz', 'numpy.savez']),
    'cut short': (npz()[:9000], ['bad.npz', 'not a zip file', '.npz', 'numpy.savez']),
    'other names': (npz(x_train=None, train_images=GREY), ["'x_train is not a file in the archive'", 'x_train', 'x_test', 'y_test']),
    'pictures of several sizes': (npz(x_test=np.array([GREY[0], None], dtype=object)),
                                  ['bad.npz', 'Object arrays', 'numpy.stack']),
    'labels from pandas': (npz(y_test=np.array(['a', None], dtype=object)),
                           ['bad.npz', 'Object arrays', 'labels.astype(str)']),
    'no images': (npz(x_test=GREY[:0]), ['x_test', '(0, 28, 28)']),
    'flattened': (npz(x_train=GREY.reshape(20, 784)), ['x_train: uint8 (20, 784)', '(n, height, width[']),
    'channels first': (npz(x_train=np.stack([GREY] * 3, 1)), ['x_train: uint8 (20, 3, 28, 28)', '1 or 3 channels']),
    'different shapes': (npz(x_test=GREY[:, 1:]), ['x_train: uint8 (20, 28, 28)', 'x_test: uint8 (20, 27, 28)']),
    'colour and grey': (npz(x_test=np.stack([GREY] * 3, 3)), ['x_train: uint8 (20, 28, 28)', 'x_test: uint8 (20, 28, 28, 3)']),
    'too few labels': (npz(y_test=np.zeros(19)), ['y_test: (19,)', 'x_test: uint8 (20, 28, 28)']),
    'one-hot labels': (npz(y_test=np.eye(20)), ['y_test: (20, 20)', 'argmax(axis=1)']),
    'words': (npz(x_train=np.full((20, 28, 28), 'white')), ['x_train: <U5 (20, 28, 28)']),
    'pixels as floats': (npz(x_train=FLOATS * 255), ['x_train', 'from 0 to 255', '0 to 1', 'x.max()']),
    'from -1 to 1': (npz(x_train=FLOATS * 2 - 1), ['x_train', 'from -1 to 1']),
    'from 0 to 16': (npz(x_test=FLOATS * 16), ['x_test', 'from 0 to 16']),
    'NaN': (npz(x_test=np.where(FLOATS > 0.9, np.nan, FLOATS)), ['x_test', 'from nan to nan', 'NaN']),
    'infinite': (npz(x_train=np.where(FLOATS > 0.9, np.inf, FLOATS)), ['x_train', 'to inf']),
    'sixteen bits': (npz(x_train=GREY.astype('int32') * 257), ['x_train', 'from 0 to 257', '/ 255']),
    'masks of 0 and 1': (npz(x_train=GREY // 128), ['x_train', 'from 0 to 0.00392157', 'black']),
    'divided twice': (npz(x_train=FLOATS / 255), ['x_train', 'from 0 to 0.00392157', 'black']),
    'one image': (npz(x_train=GREY[:1]), ['images: 1 found', 'at least 3']),
}

BAD_ARGUMENTS = {
    'no such file': (['--data', 'missing.npz'], ['missing.npz', '--data']),
    'negative epochs': (['--epochs', '-1'], ['epochs: -1', 'at least 0']),
    'batches of one': (['--batch-size', '1'], ['batch size: 1', 'at least 2']),
    'batch size in words': (['--batch-size', 'all'], ['--batch-size', "'all'"]),
    'architecture': (['--architecture', 'gan'], ['--architecture', "'gan'", 'original', 'dcgan-as-published']),
    'one latent dimension': ([], ['latent_dim: 1', 'at least 2']),
    'weights missing': (['--weights', 'missing.h5'], ['missing.h5', 'No such file', '--weights']),
    'nothing to draw': (['--epochs', '0'], ['vae_weights.h5', 'No such file', 'train first']),
}

@pytest.fixture
def refuse(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def refuse(words, *arguments, **settings):
        """The page ends with one line that has all of these words, and writes nothing."""
        before = sorted(os.walk('.'))
        with pytest.raises(SystemExit) as end:
            page('--output-dir', 'out', *arguments, **settings)
        usage, line = capsys.readouterr().err.splitlines()
        assert end.value.code == 2 and usage.startswith('usage: ')
        assert line.startswith('variational_autoencoder.py: error: ') and [word for word in words if word not in line] == []
        assert sorted(os.walk('.')) == before
        return line
    return refuse

@pytest.mark.parametrize('name', BAD_DATA)
def test_bad_data(name, tmp_path, refuse):
    content, words = BAD_DATA[name]
    (tmp_path / 'bad.npz').write_bytes(content)
    refuse(words, '--data', 'bad.npz')

@pytest.mark.parametrize('kind', ['int8', 'float32'])
def test_what_the_advice_makes_of_images_is_taken(kind, refuse):
    x = ((FLOATS - 0.51) * 248.77).astype(kind)
    np.savez('own.npz', x_train=x, x_test=x)
    line = refuse(['as floats'], '--data', 'own.npz')
    x = x.astype('float32')
    x = eval(line.split('as floats, ')[1])
    np.savez('own.npz', x_train=x, x_test=x)
    untrained('own.npz', 'out')

@pytest.mark.parametrize('name', BAD_ARGUMENTS)
def test_bad_arguments(name, digits, refuse):
    arguments, words = BAD_ARGUMENTS[name]
    changes = [('latent_dim = 2\n', 'latent_dim = 1\n')] if name == 'one latent dimension' else []
    refuse(words, '--data', digits, *arguments, changes=changes)

def test_weights_of_another_network(digits, refuse):
    np.savez('colour.npz', x_train=np.stack([GREY] * 3, 3), x_test=np.stack([GREY] * 3, 3))
    refuse([str(TRAINED), 'original', '(28, 28, 3)', '--data'], '--weights', TRAINED, '--data', 'colour.npz')
    refuse([str(TRAINED), 'dcgan-as-published', '(28, 28, 1)', '--architecture'],
           '--weights', TRAINED, '--data', digits, '--architecture', 'dcgan-as-published')

@pytest.mark.parametrize('name', ['text.h5', 'half.h5', 'short.h5', 'npz.h5', 'empty.h5', 'folder.h5', 'nan.h5'])
def test_broken_weights(name, digits, tmp_path, refuse):
    content = TRAINED.read_bytes()
    bad = {'text.h5': b'no weights', 'half.h5': content[:len(content) // 2], 'short.h5': content[:-1000],
           'npz.h5': digits.read_bytes(), 'empty.h5': b''}
    if name == 'folder.h5':
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_bytes(bad.get(name, content))
    if name == 'nan.h5':
        with h5py.File(name, 'a') as file:
            file['encoder/latent_mu/kernel:0'][0, 0] = np.nan
    refuse([name, 'weights'], '--weights', name, '--data', digits)

@pytest.mark.parametrize('folder', ['file', 'file/below', '/proc/nowhere'])
def test_bad_output_folder(folder, digits, tmp_path, refuse):
    (tmp_path / 'file').write_text('kept')
    refuse([folder, '--output-dir'], '--data', digits, '--output-dir', folder)
    assert (tmp_path / 'file').read_text() == 'kept'

def test_mnist_out_of_reach(refuse, monkeypatch):
    monkeypatch.setattr('tf_keras.datasets.mnist.load_data', lambda: 1 / 0)
    refuse(['mnist.npz', 'division by zero', '--data'], changes=[("'tests' / 'data'", "'nowhere'")])

@pytest.mark.parametrize('content', [b'version https://git-lfs.github.com/spec/v1\noid sha256:06af5dfe\nsize 11490434\n',
                                     (script.parent / 'tests' / 'data' / 'mnist.npz').read_bytes()[:100000]], ids=['pointer', 'cut'])
def test_broken_copy_of_mnist(content, tmp_path, refuse):
    (tmp_path / 'mnist.npz').write_bytes(content)
    refuse(['mnist.npz', 'not a zip file', '--data'], changes=[("script.parent / 'tests' / 'data'", f"Path({str(tmp_path)!r})")])

def test_no_window(digits, refuse, monkeypatch):
    """matplotlib before 3.11 says so as it draws its first figure."""
    monkeypatch.setattr('matplotlib.pyplot.figure', lambda: 1 / 0)
    refuse(['division by zero', 'MPLBACKEND=agg'], '--data', digits)

def test_on_the_command_line(tmp_path):
    (tmp_path / 'two  spaces.npz').write_bytes(b'no archive')
    status, out, err = finish(command('--data', 'two  spaces.npz', '--output-dir', 'out', cwd=tmp_path))
    assert (status, out) == (2, '') and 'error: ' in err and 'two  spaces.npz' in err and len(err.splitlines()) == 2
    assert os.listdir(tmp_path) == ['two  spaces.npz']

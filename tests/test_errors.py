"""What is wrong is said in one line, before anything is trained or written."""
import io
import os
import shutil
import zipfile

import numpy as np
import pytest

import variational_autoencoder as script
from conftest import command, finish

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


BAD_DATA = {
    'text': (b'no archive', 'cannot be read as an .npz file'),
    'empty file': (b'', 'cannot be read as an .npz file'),
    'npy': (plain_npy(), 'cannot be read as an .npz file'),
    'zip of text': (zip_of_text(), r'x_train holds .* of the shape \(\); it must'),
    'cut short': (npz()[:9000], 'cannot be read as an .npz file'),
    'damaged': (npz()[:5000] + b'damage' + npz()[5006:], 'cannot be read as an .npz file'),
    'no x_train': (without('x_train'), 'has no x_train; it needs x_train and x_test'),
    'no x_test': (without('x_test'), 'has no x_test; it needs'),
    'pickled': (npz(x_train=np.array([GREY, None], dtype=object)), 'allow_pickle=False'),
    'no images': (npz(x_test=GREY[:0]), r'x_test holds uint8 of the shape \(0, 28, 28'),
    'no pixels': (npz(x_test=GREY[:, :0]), r'x_test holds uint8 of the shape \(20, 0, 28'),
    'too few dimensions': (npz(x_train=GREY[0]), r'x_train holds uint8 of the shape \(28, 28\); it must'),
    'too many dimensions': (npz(x_train=GREY[..., None, None]), r'shape \(20, 28, 28, 1, 1\); it must'),
    'two channels': (npz(x_train=np.stack([GREY] * 2, 3)), r'\(20, 28, 28, 2\); it must'),
    'five channels': (npz(x_train=np.stack([GREY] * 5, 3)), r'\(20, 28, 28, 5\); it must'),
    'different shapes': (npz(x_test=GREY[:, 1:]), r'x_train have the shape \(28, 28, 1\), those of x_test \(27, 28, 1\)'),
    'labels': (npz(y_test=np.zeros(19)), r'y_test has the shape \(19,\); it must hold one label for each of the 20'),
    'unscaled floats': (npz(x_train=changed(FLOATS, 254.5)), r'float64 values from 0.5 to 254.5; .* divide .* by 255'),
    'negative floats': (npz(x_train=changed(FLOATS, -0.25)), r'float64 values from -0.25 to 0.5; .*\[0, 1\]'),
    'NaN': (npz(x_train=FLOATS, x_test=changed(FLOATS, np.nan)), r'x_test holds float64 values from nan to nan'),
    'infinity': (npz(x_train=changed(FLOATS, np.inf)), r'x_train holds float64 values from 0.5 to inf'),
    'integers too large': (npz(x_train=changed(GREY.astype('int32'), 256)), 'int32 values from 0 to 256; .*0 to 255'),
    'integers too small': (npz(x_train=changed(GREY.astype('int8'), -1)), 'int8 values from -1 to 0; .*0 to 255'),
    'words': (npz(x_train=np.full((20, 28, 28), 'white')), r'must hold numbers'),
    'complex': (npz(x_train=GREY * 1j), r'must hold numbers'),
    'one image': (npz(x_train=GREY[:1]), r'x_train has too few images \(1\): .* validation split of 0.2'),
}

BAD_ARGUMENTS = {
    'no such file': (['--data', 'missing.npz'], 'there is no data file missing.npz'),
    'negative epochs': (['--epochs', '-1'], 'number of epochs is -1; it must be a whole number from 0'),
    'epochs in words': (['--epochs', 'ten'], "argument --epochs: invalid int value: 'ten'"),
    'half an epoch': (['--epochs', '0.5'], "argument --epochs: invalid int value: '0.5'"),
    'batch size': (['--batch-size', '0'], 'batch size is 0; it must be a whole number from 1'),
    'batch size in words': (['--batch-size', 'all'], "argument --batch-size: invalid int value: 'all'"),
    'seed': (['--seed', '-5'], 'seed is -5; it must be a whole number from 0 to 4294967295'),
    'large seed': (['--seed', '4294967296'], 'seed is 4294967296'),
    'seed in words': (['--seed', 'lucky'], "argument --seed: invalid int value: 'lucky'"),
    'architecture': (['--architecture', 'gan'], "invalid choice: 'gan' .*original.*dcgan-as-published"),
    'unknown flag': (['--latent-dim', '3'], 'unrecognized arguments: --latent-dim 3'),
    'weights missing': (['--weights', 'missing.h5'], 'there is no weights file missing.h5'),
}


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refuse(arguments, text):
    """main() refuses with this text, and writes nothing."""
    before = sorted(os.listdir('.'))
    with pytest.raises(script.UserError, match=text) as error:
        script.main([*arguments, '--output-dir', 'out'])
    assert sorted(os.listdir('.')) == before
    assert isinstance(error.value, ValueError)


@pytest.mark.parametrize('name', BAD_DATA)
def test_bad_data(name, tmp_path):
    content, text = BAD_DATA[name]
    (tmp_path / 'bad.npz').write_bytes(content)
    refuse(['--data', 'bad.npz'], text)


@pytest.mark.parametrize('name', BAD_ARGUMENTS)
def test_bad_arguments(name, digits):
    arguments, text = BAD_ARGUMENTS[name]
    refuse(['--data', str(digits), *arguments], text)


@pytest.mark.parametrize('setting, value, text', [
    ('latent_dim', 3, 'the latent dimension is 3; it must be 2'), ('no_epochs', -1, 'the number of epochs is -1'),
    ('no_epochs', 2.5, 'the number of epochs is 2.5'), ('batch_size', 'many', "invalid int value: 'many'")])
def test_bad_configuration(monkeypatch, digits, setting, value, text):
    monkeypatch.setattr(script, setting, value)
    refuse(['--data', str(digits)], text)


def test_bad_weights(digits, tmp_path):
    good = tmp_path / 'vae_weights.h5'
    script.main(['--data', str(digits), '--epochs', '1', '--output-dir', str(tmp_path)])
    np.savez('wide.npz', x_train=GREY[:, :20], x_test=GREY[:, :20])
    both = 'weights of original for images of 28 by 28 by 1, this run needs those of '
    refuse(['--weights', 'vae_weights.h5', '--data', 'wide.npz'], both + 'original for images of 20 by 28 by 1')
    refuse(['--weights', 'vae_weights.h5', '--data', str(digits), '--architecture', 'dcgan-as-published'],
           both + 'dcgan-as-published for images of 28 by 28 by 1')
    content = good.read_bytes()
    for name, bad in [('text.h5', b'no weights'), ('empty.h5', b''), ('half.h5', content[:len(content) // 2]),
                      ('short.h5', content[:-1000]), ('npz.h5', digits.read_bytes())]:
        (tmp_path / name).write_bytes(bad)
        refuse(['--weights', name, '--data', str(digits)], f'{name} holds weights of no known network')
    shutil.copy(good, 'my.weights.h5')
    refuse(['--weights', 'my.weights.h5', '--data', str(digits)], 'rename it to plain .h5')
    refuse(['--weights', str(tmp_path), '--data', str(digits)], 'holds weights of no known network')
    shutil.copy(good, 'renamed')  # any other name will do
    script.main(['--weights', 'renamed', '--data', str(digits), '--epochs', '0', '--output-dir', 'drawn'])
    assert sorted(os.listdir('drawn')) == ['decoded_digits.png', 'latent_space.png']


def test_bad_output_folder(digits, tmp_path):
    (tmp_path / 'file').write_text('kept')
    for folder in ('file', 'file/below', '/proc/nowhere'):
        with pytest.raises(script.UserError, match=f'{folder} cannot take the results .* --output-dir'):
            script.main(['--data', str(digits), '--output-dir', folder])
    assert (tmp_path / 'file').read_text() == 'kept'


def test_mnist_out_of_reach(monkeypatch, tmp_path):
    def fail():
        raise Exception('URL fetch failure on mnist.npz: None -- no network')
    monkeypatch.setattr(script.mnist, 'load_data', fail)
    monkeypatch.setattr(script, 'project', tmp_path)
    refuse([], 'MNIST cannot be downloaded .*no network.*put mnist.npz at .*tests/data/mnist.npz, or .*--data')


def test_on_the_command_line(tmp_path):
    (tmp_path / 'bad.npz').write_bytes(npz(x_train=changed(FLOATS, 255)))
    status, out, err = finish(command('--data', 'bad.npz', '--output-dir', 'out', cwd=tmp_path))
    assert (status, out) == (2, '')
    assert err.startswith('error: x_train holds float64 values from 0.5 to 255.0; ')
    assert len(err.splitlines()) == 1
    assert os.listdir(tmp_path) == ['bad.npz']

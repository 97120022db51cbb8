"""The code and the commands of the README, as they stand there."""

import re
import shutil
import subprocess
import sys
from textwrap import dedent

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from helpers import (
    CONFIGURATION,
    ENCODER,
    LOADING,
    LOSS,
    ORIGINAL,
    PROJECT,
    README,
    SCATTER,
    SCRIPT,
    TRAINING,
    VAE,
    Page,
    code_blocks,
    link_reference,
    output_folder,
    pictures,
    printed,
    printed_losses,
    run_notebook,
    run_script,
    script_flags,
    table,
    write_mnist,
)


def test_look(tmp_path):
    """The command draws the committed figures, and prints the test loss that the README names."""
    (command,) = code_blocks(README, 'Look', 'sh')
    *_, train_on = code_blocks(README, 'Train', 'sh')
    assert script_flags(train_on) == ['--epochs', '20', *script_flags(command)[2:]]
    link_reference(tmp_path)
    (tmp_path / 'tests').symlink_to(PROJECT / 'tests')
    status, output, errors = run_script(*script_flags(command), cwd=tmp_path)
    assert (status, errors) == (0, [])
    test_loss, kl = printed_losses(output)
    promised = re.search(r'which is (\S+) in\s+the run shown: (\S+) for the KL', README.read_text())
    assert test_loss == pytest.approx(float(promised[1]), abs=0.15)  # z is random
    assert kl == pytest.approx(float(promised[2]), abs=0.006)

    folder = output_folder(tmp_path)
    for name in ('latent_space.png', 'decoded_digits.png'):
        drawn = plt.imread(folder / name)[..., :3]
        committed = plt.imread(ORIGINAL / name)[..., :3]
        assert drawn.shape == committed.shape
        # Other versions of matplotlib draw a letter or a point a pixel further on
        coloured = np.ptp(committed, axis=2) > 0.1
        assert np.abs(drawn - committed)[coloured].mean() < 0.1


def test_in_a_notebook(mnist, tmp_path):
    """The blocks for a notebook and 'What to do with it', in a kernel beside the script."""
    link_reference(tmp_path)
    shutil.copy(SCRIPT, tmp_path)
    write_mnist(tmp_path, mnist, 100, 500)
    _, run, _, new_images, point = code_blocks(README, 'In a notebook', 'python')
    new, again, oddest, save, load, walk = code_blocks(README, 'What to do with it', 'python')
    (legend,) = code_blocks(README, 'Change it', 'python')
    np.save(tmp_path / 'new_images.npy', mnist['x_test'][:10])
    results = """
        print(np.abs(decoded - input_test[:10]).mean())
        print(np.sum(errors > errors[oddest].min()))
    """
    check_new_images = 'np.testing.assert_allclose(points, test_mu[:10], atol=1e-5)'
    cells = [
        run,
        new_images,
        check_new_images,
        point,
        new,
        again,
        oddest,
        dedent(results),
        save,
        walk,
        legend,
    ]
    run, _, _, point, new, again, oddest, numbers, _, walk, legend = run_notebook(tmp_path, *cells)
    assert pictures(run) == 2
    assert [pictures(cell) for cell in (point, new, again, oddest, walk, legend)] == [1] * 6
    difference, more_odd = printed(numbers).split()
    assert float(difference) < 0.1
    assert more_odd == '9'
    with Image.open(tmp_path / 'walk.gif') as animation:
        assert animation.n_frames == 32
    assert (tmp_path / 'walk.gif').stat().st_size < 400_000

    load += 'print(points.shape, images.shape)\n'
    program = subprocess.run([sys.executable, '-c', load], cwd=tmp_path, capture_output=True, text=True)
    assert program.stdout.endswith('(1, 2) (1, 28, 28, 1)\n'), program.stderr


def test_images_as_an_array(mnist, tmp_path):
    _, _, images, _, _ = code_blocks(README, 'In a notebook', 'python')
    np.save(tmp_path / 'images.npy', mnist['x_train'][:300])
    page = Page(tmp_path, no_epochs=1)
    (number,) = page.cells_under(LOADING)
    page.sources[number] = images
    page.run(last=TRAINING)
    np.testing.assert_array_equal(page['input_test'][..., 0], np.float32(mnist['x_train'][200:300]) / 255)
    assert page['target_test'] is None


@pytest.fixture
def page(mnist, tmp_path):
    """The page with a few digits."""
    write_mnist(tmp_path, mnist, 320, 100)
    return Page(tmp_path, no_epochs=1)


def change_epochs(page, change):
    page.set('no_epochs', 100)
    change('no_epochs = 100')
    page.run(last=CONFIGURATION)
    assert page['no_epochs'] == 20


def change_batch_size(page, change):
    change('batch_size = 128')
    page.run(last=CONFIGURATION)
    assert page['batch_size'] == 64


def change_latent_dimensions(page, change):
    change('latent_dim = 2')
    page.run(last=LOSS)
    assert page['encoder'].output_shape == [(None, 8)] * 3
    assert page['decoder'].input_shape == (None, 8)


def change_seed(page, change):
    page.run(last=VAE)
    before = page['vae'].get_weights()[0]
    change('seed = 42')
    page.run(last=VAE)
    assert not np.array_equal(page['vae'].get_weights()[0], before)


def change_weights(page, change):
    link_reference(page.folder)
    page.set('no_epochs', 0)
    change('weights = None  # or the path of a vae_weights.h5 to start from')
    page.run(last=TRAINING)
    assert page['test_loss'] < 170


def change_network(page, change):
    change("architecture = 'original'  # or 'dcgan', the deeper network at the end of the post")
    page.run(last=ENCODER)
    assert page['conv_shape'] == (None, 2, 2, 1024)


def change_layer(page, change):
    change("x = Dense(20, activation='relu')(x)")
    page.run(last=VAE)
    assert [layer.units for layer in page['encoder'].layers if hasattr(layer, 'units')] == [50, 2, 2]


def change_factor_of_kl(page, change):
    page.run(last=LOSS)
    loss_before = page['kl_reconstruction_loss']
    change('return K.mean(reconstruction_loss + kl_loss)')
    page.run(first=LOSS, last=LOSS)
    true, pred = page['vae'].input, page['vae'].output
    tensors = [loss_before(true, pred), page['kl_reconstruction_loss'](true, pred)]
    tensors += [page['vae_mu'], page['vae_sigma']]
    once, fourfold, mu, sigma = page['K'].function([true], tensors)([page['input_test']])
    divergence = np.sum(mu**2 + np.exp(sigma) - sigma - 1, axis=1) / 2
    np.testing.assert_allclose(fourfold - once, 3 * divergence.mean(), rtol=1e-3, atol=1e-3)


def change_learning_rate(page, change):
    change("vae.compile(optimizer='adam', loss=kl_reconstruction_loss)")
    page.run(last=LOSS)
    page.run_cell(page.cells_under(TRAINING)[0])
    assert page['K'].get_value(page['vae'].optimizer.lr) == pytest.approx(1e-4)


def change_when_to_stop(page, change):
    """A loss that stays as it is ends the training five epochs after the first."""
    page.set('no_epochs', 100)
    change('keras.callbacks.TerminateOnNaN(),')
    page.run(last=VAE)
    with pytest.MonkeyPatch.context() as patch:
        stopping = page['keras'].callbacks.EarlyStopping
        patch.setattr(stopping, 'get_monitor_value', lambda self, logs: 200.0)
        page.run(first=LOSS, last=TRAINING)
    assert len(page['vae'].history.epoch) == 1 + 5


def change_folder(page, change):
    change("output_dir = Path('outputs') / datetime.now().strftime('%Y-%m-%d-%H%M%S-%f')")
    page.run(last=TRAINING)
    assert (page.folder / 'outputs' / 'my_run' / 'vae_weights.h5').exists()


def change_colours(page, change):
    change('plt.scatter(mu[:, 0], mu[:, 1], c=target_data)')
    page.run(last=LOSS)
    page.names['output_dir'] = page.folder
    page.run(first=SCATTER, last=SCATTER)
    with page.inside():
        page['viz_latent_space'](page['encoder'], (page['input_test'], page['target_test']))
    assert plt.gcf().axes[0].collections[0].get_cmap().name == 'tab10'


CHANGES = {
    'the number of epochs': change_epochs,
    'the batch size': change_batch_size,
    'the latent dimensions': change_latent_dimensions,
    'the random numbers': change_seed,
    'the weights to start from': change_weights,
    'the network': change_network,
    'a layer': change_layer,
    'the factor of the KL divergence': change_factor_of_kl,
    'the learning rate': change_learning_rate,
    'when to stop': change_when_to_stop,
    'the folder of the results': change_folder,
    'the colours of the classes': change_colours,
}
ROWS = {what: (heading, line.strip('`')) for what, heading, line in table(README, 'Change it')}


def test_every_row_of_change_it_is_tested():
    assert list(ROWS) == list(CHANGES)


@pytest.mark.parametrize('what', CHANGES)
def test_change_it(page, what):
    """The row's line in the place of the page's line has the effect that the row names."""
    heading, new = ROWS[what]
    CHANGES[what](page, lambda old: page.edit(heading, old, new))


def test_requirements():
    """What `uv run` reads at the end of the script is requirements.txt."""
    block = re.search(r'^# /// script\n(.*?)^# ///$', SCRIPT.read_text(), re.MULTILINE | re.DOTALL)[1]
    in_script = re.findall(r'^#     "(.*)",$', block, re.MULTILINE)
    lines = (PROJECT / 'requirements.txt').read_text().splitlines()
    assert in_script == [line for line in lines if not line.startswith('#')]

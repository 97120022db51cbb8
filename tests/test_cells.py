"""Each cell of the page can be run again, alone or on to the end."""

import numpy as np
import pytest

from helpers import CALLING, CONFIGURATION, DECODER, ENCODER, ENCODER_MODEL, LOADING, LOSS, PREPROCESSING
from helpers import SCATTER, TRAINING, TRICK, VAE, Page, parameters, write_mnist


@pytest.fixture
def page(mnist, tmp_path):
    """The page after a whole run of one epoch, of two steps."""
    write_mnist(tmp_path, mnist, 320, 100)
    return Page(tmp_path, no_epochs=1).run()


def steps(page):
    """How many steps the network has been trained."""
    return page['K'].get_value(page['vae'].optimizer.iterations)


def check(page):
    """What holds after every run, whichever cells were run again before."""
    assert page['input_train'].shape == (320, 28, 28, 1)
    assert page['input_train'].dtype == 'float32'
    assert (page['input_train'].min(), page['input_train'].max()) == (0, 1)
    assert page['conv_shape'] == (None, 7, 7, 16)
    assert parameters(page) == ([17208, 9137, 26345], 24641)
    assert np.isfinite(page['test_loss'])


def test_each_cell_alone(page):
    for number, heading in enumerate(page.headings):
        page.run_cell(number)
        if heading == LOADING:  # leaves raw images, as the post's does
            page.run(first=PREPROCESSING, last=PREPROCESSING)
        check(page)
    assert len((page.output / 'history.csv').read_text().splitlines()) == 1 + 1

    # Run once more, the training goes on
    page.train()
    assert steps(page) == 2 + 2
    assert len((page.output / 'history.csv').read_text().splitlines()) == 1 + 2

    # Also with other settings, of which only the changed cell is run
    page.set('no_epochs', 3)
    page.set('batch_size', 64)
    page.run_cell(page.cells_under(CONFIGURATION)[0])
    page.train()
    assert steps(page) == 2 + 2 + 3 * 4
    assert len((page.output / 'history.csv').read_text().splitlines()) == 1 + 2 + 3


def test_a_new_network(page):
    """From 'Encoder definition' or above: the same seed gives the same training once more."""
    first = page['vae'].history.history['loss'][0]
    for heading in [ENCODER, LOADING]:
        page.run(first=heading)
        check(page)
        assert page['vae'].history.history['loss'][0] == pytest.approx(first, rel=1e-3)
        assert steps(page) == 2
    page.run(first=ENCODER, last=VAE)
    before = page['vae'].get_weights()[0]
    page.names['seed'] = 7
    page.run(first=ENCODER, last=VAE)
    assert not np.array_equal(page['vae'].get_weights()[0], before)


@pytest.mark.parametrize('heading', [TRICK, ENCODER_MODEL, DECODER])
def test_a_new_decoder(page, heading):
    """From these headings, the encoder stays as it is."""
    encoder, decoder = page['encoder'].get_weights(), page['decoder'].get_weights()
    page.run(first=heading, last=LOSS)
    assert all(map(np.array_equal, page['encoder'].get_weights(), encoder))
    assert not np.allclose(page['decoder'].get_weights()[0], decoder[0], atol=0.01)
    page.run(first=TRAINING)
    check(page)
    assert steps(page) == 2


def test_the_network_as_it_is(page):
    """From these headings, it goes on training, or is only drawn."""
    for heading in [CALLING, SCATTER, TRAINING, LOSS, VAE]:
        before = page['vae'].history.history['loss'][0]
        page.run(first=heading)
        check(page)
        assert steps(page) == 2
        after = page['vae'].history.history['loss'][0]
        assert after < before - 5 if heading in [TRAINING, LOSS, VAE] else after == before

"""The networks of the model tests, with generic values."""

from models.conftest import generic, make_cnn7, make_neuron, make_resnet19, make_resnet34

__all__ = ["generic", "make_cnn7", "make_neuron", "make_resnet19", "make_resnet34"]

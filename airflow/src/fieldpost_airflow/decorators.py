"""``@task.fieldpost``: a function that says with which arguments a job runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk.bases.decorator import (
    DecoratedOperator,
    TaskDecorator,
    determine_kwargs,
    task_decorator_factory,
)
from airflow.sdk.definitions.context import context_merge
from airflow.sdk.exceptions import AirflowFailException

from fieldpost_airflow.operators import FieldpostTriggerOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class _FieldpostDecoratedOperator(DecoratedOperator, FieldpostTriggerOperator):
    """The function gives the job's arguments: a dict, or ``None`` for none."""

    custom_operator_name = "@task.fieldpost"
    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        *FieldpostTriggerOperator.template_fields,
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **DecoratedOperator.template_fields_renderers,
        **FieldpostTriggerOperator.template_fields_renderers,
    }
    overwrite_rtif_after_execution = True

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            python_callable=python_callable, op_args=op_args, op_kwargs=op_kwargs, **kwargs
        )

    def execute(self, context: Context) -> Any:
        context_merge(context, self.op_kwargs)
        kwargs = determine_kwargs(self.python_callable, self.op_args, context)
        args = self.python_callable(*self.op_args, **kwargs)
        if args is not None and not isinstance(args, Mapping):
            raise AirflowFailException(
                f"{self.python_callable.__name__} gave a {type(args).__name__}: "
                "@task.fieldpost expects the job's arguments, a dict or None"
            )
        self.args = {**(self.args or {}), **(args or {})}
        return super().execute(context)


def fieldpost_task(
    python_callable: Callable[..., Any] | None = None, **kwargs: Any
) -> TaskDecorator:
    """Wraps a function into a :class:`~fieldpost_airflow.operators.FieldpostTriggerOperator`.

    .. code-block:: python

        @task.fieldpost(job="read-meter", group="berlin", min_success=0.9)
        def collect(bus: int):
            return {"bus": bus}
    """
    return task_decorator_factory(
        python_callable=python_callable,
        decorated_operator_class=_FieldpostDecoratedOperator,
        **kwargs,
    )

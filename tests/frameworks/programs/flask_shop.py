"""A Flask application with a factory; `python flask_shop.py URL` serves it with the reloader."""

from __future__ import annotations

import sys
from pathlib import Path

from flask import Flask, current_app
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

from dbdurable import Durable
from dbdurable.ext.sqlalchemy import SQLAlchemy

durable = Durable()  # extensions.py: opens nothing, reads nothing
db = scoped_session(sessionmaker())


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str]


def mark_in_a_helper(order_id: int, state: str) -> None:
    order = db.get_one(Order, order_id)  # the global session, as Flask code is written
    order.state = state


@durable.transaction
def mark(session: Session, order_id: int, state: str) -> str:
    mark_in_a_helper(order_id, f"{state} by {current_app.config['SHOP']}")
    return session.get_one(Order, order_id).state


@durable.step
def shop_name() -> str:
    return str(current_app.config["SHOP"])


@durable.workflow
def fulfil(order_id: int) -> str:
    return f"{shop_name()}: {mark(order_id, state='packed')}"


def create_app(url: str, shop: str = "corner shop") -> Flask:
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    Base.metadata.create_all(engine)
    db.remove()
    db.configure(bind=engine)
    app = Flask(__name__)
    app.config["SHOP"] = shop
    durable.configure(url=url, sources=[SQLAlchemy(db)], around=app.app_context)

    @app.teardown_appcontext
    def remove_session(_: BaseException | None) -> None:
        db.remove()

    @app.post("/orders/<int:order_id>")
    def create(order_id: int) -> str:
        db.add(Order(id=order_id, state="new"))
        handle = fulfil.options(key=str(order_id), tx=db).start(order_id)
        db.commit()
        return str(handle.id)

    app.post("/fulfil/<int:order_id>")(fulfil)
    return app


if __name__ == "__main__":
    with Path(sys.argv[2]).open("a") as imports:
        imports.write("imported\n")
    create_app(sys.argv[1]).run(port=0, use_reloader=True, debug=True)
